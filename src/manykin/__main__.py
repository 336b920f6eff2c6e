"""``python -m manykin`` is the command ``manykin``."""

from manykin.cli import main

if __name__ == "__main__":
    main()
