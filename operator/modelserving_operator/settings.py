"""What a deployment of the operator can set, read from the environment once at start-up.

Only values live here; what is done with them is said where they are used.
"""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Environment variables with the prefix MODELSERVING_."""

    model_config = SettingsConfigDict(env_prefix="MODELSERVING_", frozen=True)

    namespace: str = Field(description="The namespace whose ModelServings this operator serves.")
    status_port: Annotated[int, Field(ge=1, le=65_535)] = 8888
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    demand_expiry_seconds: Annotated[int, Field(ge=1, le=3600)] = Field(
        default=30,
        description="A gateway's entry that has not changed for this long is removed. Three times"
        " the gateway's renewal period: one lost write must not lose a request.",
    )
    stale_after_seconds: Annotated[int, Field(ge=100, le=3600)] = Field(
        default=180,
        description="Liveness turns red when a ModelServing has not been reconciled for this long."
        " A turn may wait 60 s for a probe, and at rest the next one comes after 30 s.",
    )
