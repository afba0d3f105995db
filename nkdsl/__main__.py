"""`python -m nkdsl …`: the command line without an installed script."""

import sys

from nkdsl.cli.main import main

if __name__ == "__main__":
    sys.argv[0] = "nkdsl"  # reports quote the command line
    sys.exit(main())
