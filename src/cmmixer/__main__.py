"""`python -m cmmixer`, which `torchrun -m cmmixer` needs."""

from cmmixer.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
