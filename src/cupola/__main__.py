"""`python -m cupola` is `cupola`."""

from cupola.cli import main

if __name__ == "__main__":
    main()
