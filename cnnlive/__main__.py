"""``python -m cnnlive``: the command line."""

from cnnlive.cli import main

if __name__ == "__main__":
    main(prog_name="cnnlive")
