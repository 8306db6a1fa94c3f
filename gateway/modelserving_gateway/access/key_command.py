"""The console command that makes an API key: the key once, and the entry for the Secret.

Nothing is stored and no cluster is called: what is printed is all there is.
"""

import argparse
import hashlib
import secrets
import sys
from typing import Any, Final

import yaml
from pydantic import ValidationError

from modelserving_api.priority import Priority
from modelserving_gateway.access.keys import Key

_PREFIX: Final = "ms-"
"""So that scanners for leaked secrets can be told what to look for."""

_RANDOM_BYTES: Final = 32
"""256 bits: nobody guesses one, however fast its hash is computed."""


def main(arguments: list[str] | None = None) -> int:
    """Print the entry to stdout and the key to stderr; 2 when an option is wrong."""
    options = _parser().parse_args(arguments)
    key = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    entry: dict[str, Any] = {
        "name": options.name,
        "sha256": hashlib.sha256(key.encode()).hexdigest(),
        "models": options.models.split(",") if options.models else None,
        "priority": options.priority,
        "maxInFlight": options.max_in_flight,
        "requestsPerMinute": options.requests_per_minute,
    }
    entry = {name: value for name, value in entry.items() if value is not None}
    try:
        Key.model_validate(entry)
    except ValidationError as error:
        for problem in error.errors(include_input=False):
            where = ".".join(str(part) for part in problem["loc"])
            sys.stderr.write(f"{where}: {problem['msg']}\n")
        return 2
    sys.stderr.write(f"{key}\nThis key is not shown again. Its entry for the Secret follows.\n")
    sys.stderr.flush()
    sys.stdout.write(yaml.safe_dump([entry], sort_keys=False))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="modelserving-gateway-key",
        description="Make an API key for the gateway. The key goes to stderr, its entry for the"
        " Secret to stdout: modelserving-gateway-key NAME >> keys.yaml",
    )
    parser.add_argument("name", help="who will use it; it is in the gateway's log")
    parser.add_argument("--models", help="declared models that it may use, with commas between")
    parser.add_argument(
        "--priority",
        choices=[each.value for each in Priority],
        help="the most urgent class that it may ask for (normal)",
    )
    parser.add_argument("--max-in-flight", type=int, help="requests at once, on each replica")
    parser.add_argument("--requests-per-minute", type=int, help="on each replica")
    return parser


if __name__ == "__main__":
    sys.exit(main())
