"""The planner: from a product and a target's table to a plan, by a model alone.

`problem` reads the op, `registers` and `split` lay blocks on it, `cost` predicts cycles, `search`
finds the best plan or checks a written one. Pure functions on frozen dataclasses; only `problem`
touches IR.
"""

from nkdsl.planner.cost import Cost, predict
from nkdsl.planner.problem import Problem, analyse
from nkdsl.planner.search import check_plan, find_plan

__all__ = ["Cost", "Problem", "analyse", "check_plan", "find_plan", "predict"]
