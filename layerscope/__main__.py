"""``python -m layerscope`` and the ``layerscope`` command."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from layerscope.cli.commands import app

    app(prog_name="layerscope")


if __name__ == "__main__":
    main()
