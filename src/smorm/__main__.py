"""`python -m smorm`, which `torchrun -m smorm train ...` starts."""

from smorm.cli.main import main

main()
