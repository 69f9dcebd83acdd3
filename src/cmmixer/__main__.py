"""`python -m cmmixer`, which `torchrun -m cmmixer` needs."""

from cmmixer.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
