"""`python -m unified`, and so `torchrun -m unified train RECIPE`: the `unified` command."""

from unified.cli.main import main

if __name__ == "__main__":
    main()
