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
    blocked_after_seconds: Annotated[float, Field(ge=1, le=600)] = Field(
        default=60.0,
        description="The process ends when its event loop has done nothing for this long. Nothing"
        " of ours takes a second, but a starved node may not run us for several.",
    )
    api_timeout_seconds: Annotated[float, Field(ge=0.1, le=60)] = Field(
        default=10.0,
        description="For one call to the API server. One that takes longer is in trouble, and we"
        " come back anyway.",
    )
    watch_seconds: Annotated[int, Field(ge=1, le=3600)] = Field(
        default=300,
        description="The API server is asked to end a watch after this long, so that none is old.",
    )
    watch_silence_seconds: Annotated[float, Field(ge=1, le=3600)] = Field(
        default=70.0,
        description="A watch that has told nothing for this long is begun anew: it may have"
        " stalled without an error (kopf #585). API servers send a bookmark every minute.",
    )

    @property
    def watch_lost_seconds(self) -> float:
        """A watch that has told nothing of what is there for this long does not come back.

        By then it has been ended at least once, by the API server or by us.
        """
        return self.watch_seconds * 1.1 + self.watch_silence_seconds
