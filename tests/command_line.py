"""How tests run the command line."""

import json

from click.testing import CliRunner

from cnnlive import cli


def run(*arguments, env=None):
    return CliRunner().invoke(cli.main, [str(a) for a in arguments], env=env, catch_exceptions=False)


def answer(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def complaint(*arguments):
    """Run what has to fail, and return its one line."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("cnnlive: error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.strip()
