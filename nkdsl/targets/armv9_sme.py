"""An Armv9 core with SME, of nobody in particular: NEON beside outer products.

Outside of the streaming mode it is used as a core with NEON alone. Rates of NEON and caches are
those of Neoverse V2, whose table says where they are from.
"""

from dataclasses import replace

from nkdsl.targets.arm import ARMV8_6
from nkdsl.targets.model import NEVER_MASKED
from nkdsl.targets.neoverse_v2 import NEOVERSE_V2
from nkdsl.targets.sme import SME

ARMV9_SME = replace(
    NEOVERSE_V2,
    name="armv9-sme",
    description="Armv9 with SME: outer products on vectors of any length, NEON beside them",
    cpu="generic",
    features=ARMV8_6,
    masked=False,
    masked_from=NEVER_MASKED,
    tiles=SME,
)
