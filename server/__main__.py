"""Command line of the server."""

import argparse
import sys


def main() -> int:
    """Say plainly that there is no server yet: this version builds the bundle that one will read."""
    parser = argparse.ArgumentParser(prog="python -m server", description="Serve recommendations from a bundle.")
    parser.add_argument("--bundle", metavar="DIR", help="serving bundle, as `nanorecsys bundle` builds it")
    parser.parse_args()
    print("error: this version has no server yet", file=sys.stderr)
    print("  -> `nanorecsys bundle` builds what it will read, and verifies it with --check DIR", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
