"""Command line of the server."""

import argparse
import sys


def main() -> int:
    """Say plainly that there is nothing to serve yet: the chapter that builds a bundle is not in this version."""
    parser = argparse.ArgumentParser(prog="python -m server", description="Serve recommendations from a bundle.")
    parser.add_argument("--bundle", metavar="DIR", help="serving bundle, as chapter 03_export leaves it")
    bundle = parser.parse_args().bundle
    found = f"{bundle} is not one" if bundle else "none was given"
    print(f"error: expected a serving bundle, {found}", file=sys.stderr)
    print("  -> this version has no chapter 03_export, which builds one; nothing to serve yet", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
