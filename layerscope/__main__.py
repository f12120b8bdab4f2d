"""``python -m layerscope`` and the ``layerscope`` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        from layerscope.cli.commands import app

        app(prog_name="layerscope")
    except KeyboardInterrupt:  # while it still starts; commands see to it themselves
        sys.exit(130)


if __name__ == "__main__":
    main()
