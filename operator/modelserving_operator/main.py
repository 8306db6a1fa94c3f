"""The program `modelserving-operator`: settings, logs, kopf. Nothing else."""

import asyncio

import kopf

from modelserving_operator import logs
from modelserving_operator.handlers import Operator, register
from modelserving_operator.settings import Settings


def main() -> None:
    """Run the operator until it is told to stop."""
    settings = Settings()
    logs.configure(settings.log_level)
    registry = kopf.OperatorRegistry()
    register(registry, Operator(settings))
    asyncio.run(
        kopf.operator(
            registry=registry,
            # One replica, strategy Recreate: there is nobody to agree with.
            standalone=True,
            namespaces=[settings.namespace],
        )
    )


if __name__ == "__main__":
    main()
