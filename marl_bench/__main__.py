"""`python -m marl_bench`: the same as the `marl-bench` command."""

import sys

from marl_bench.cli import main

sys.exit(main())
