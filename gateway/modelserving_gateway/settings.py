"""Every setting of the gateway, from MODELSERVING_* environment variables, each with its reason.

Only values and their bounds; nothing is decided here.
"""

import hashlib
from enum import StrEnum
from typing import Final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

_FIELD_MANAGER_PREFIX: Final = "modelserving-gateway-"
_MAX_FIELD_MANAGER: Final = 128
"""Longer field managers are refused by the API server (metav1.PatchOptions)."""


class LogLevel(StrEnum):
    """Levels of the structured log."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Settings(BaseSettings):
    """The settings of one gateway Pod. Raises pydantic.ValidationError when one is missing."""

    model_config = SettingsConfigDict(env_prefix="MODELSERVING_", frozen=True)

    namespace: str = Field(min_length=1, description="Whose ModelServings are served.")
    pod_name: str = Field(
        min_length=1,
        max_length=253,
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
        description="The requester of this Pod's entry in spec.requests; no other Pod may use it.",
    )
    host: str = Field(default="0.0.0.0", description="Address to listen on.")  # noqa: S104
    port: int = Field(default=8080, ge=0, le=65_535)
    log_level: LogLevel = LogLevel.INFO

    hold_timeout_seconds: float = Field(
        default=600,
        gt=0,
        description="How long a request may wait for its model: the default loadTimeoutSeconds of"
        " a model, so that one whole load fits.",
    )
    hold_grace_seconds: float = Field(
        default=5,
        ge=0,
        description="A streaming request that is held longer gets the head of its answer and"
        " comments, so that nothing between it and us cuts it off. Within that time an error still"
        " has a status of its own.",
    )
    keepalive_seconds: float = Field(
        default=10,
        gt=0,
        le=10,
        description="Between those comments. Some clients give up after 20 s of silence, common"
        " load balancers after 50 or 60.",
    )
    label_selector: str = Field(
        default="",
        description="Which ModelServings of the namespace are served; empty for all of them.",
    )
    keys_file: str = Field(
        default="",
        description="The mounted Secret with the API keys; empty: none are needed, and whoever"
        " reaches the gateway may use every model.",
    )
    max_body_bytes: int = Field(
        default=33_554_432,
        gt=0,
        description="32 MiB: several base64 pictures of a phone camera. A body is kept in memory"
        " while its request is held.",
    )
    body_timeout_seconds: float = Field(
        default=60,
        gt=0,
        description="How long a client may take to send its body: 32 MiB at 4.5 Mbit/s.",
    )
    max_held_requests: int = Field(
        default=1000,
        gt=0,
        description="Held requests for each model; what a GPU answers in some minutes. More would"
        " only time out later.",
    )
    max_held_requests_all: int = Field(
        default=5000,
        gt=0,
        description="Held requests for all models together; each takes memory beside its body.",
    )
    max_in_flight: int = Field(
        default=256,
        gt=0,
        description="Requests that this gateway lets run on one engine; the rest waits here, in its"
        " order. vLLM runs 256 at a time by default (--max-num-seqs): what it has beyond that"
        " waits there, where no priority counts and a swap drains it first.",
    )
    max_held_bytes: int = Field(
        default=268_435_456,
        gt=0,
        description="256 MiB for all bodies in memory, read, held or forwarded: a third of the"
        " memory limit that the chart gives to a gateway.",
    )
    max_header_bytes: int = Field(
        default=65_536,
        gt=0,
        description="64 KiB for the first line and the headers of a request: eight times what nginx"
        " takes by default, since some clients send large tokens.",
    )
    header_timeout_seconds: float = Field(
        default=10,
        gt=0,
        description="From the first byte of a request's headers to their last.",
    )
    max_connections: int = Field(
        default=16_384,
        gt=0,
        description="Connections of clients, idle ones included: three times what may be held."
        " Each takes some 10 KiB.",
    )
    stalled_client_seconds: float = Field(
        default=120,
        gt=0,
        description="A client that takes no byte of its answer for this long has left without"
        " saying so. Twice the idle time-out of common load balancers.",
    )
    renew_seconds: float = Field(
        default=10,
        gt=0,
        description="How often lasting demand is renewed; the operator forgets an entry after 30"
        " seconds, so two renewals may be lost.",
    )
    upstream_connect_timeout_seconds: float = Field(
        default=5,
        gt=0,
        description="An engine's Pod is on the same network: one lost SYN costs 1 s, two cost 3.",
    )
    upstream_read_timeout_seconds: float = Field(
        default=600,
        gt=0,
        description="The longest silence of an engine. A plain completion is silent until it is"
        " whole, so this bounds the longest generation without streaming.",
    )
    max_upstream_attempts: int = Field(
        default=3,
        gt=0,
        description="How often a request may reach an engine that then dies without a byte of an"
        " answer. Bounded, since the request itself may be what kills the engine.",
    )
    shutdown_delay_seconds: float = Field(
        default=5,
        ge=0,
        description="After SIGTERM, still accepted that long: the time until every node has taken"
        " this Pod out of its Service.",
    )
    shutdown_timeout_seconds: float = Field(
        default=60,
        gt=0,
        description="After SIGTERM, what runs or is held may go on that long, the delay included;"
        " then it ends with an error. The Pod's grace period must be above it by ten seconds.",
    )

    @property
    def bounds(self) -> dict[str, float]:
        """Return what bounds what waits, runs or is kept in memory, by the setting's name."""
        return {
            name: getattr(self, name)
            for name in (
                "max_held_requests",
                "max_held_requests_all",
                "max_held_bytes",
                "max_in_flight",
                "max_body_bytes",
                "max_connections",
                "hold_timeout_seconds",
            )
        }

    @property
    def field_manager(self) -> str:
        """Return the manager of this Pod's server-side apply, at most 128 characters."""
        name = _FIELD_MANAGER_PREFIX + self.pod_name
        if len(name) <= _MAX_FIELD_MANAGER:
            return name
        digest = hashlib.sha256(self.pod_name.encode()).hexdigest()[:16]
        return f"{name[: _MAX_FIELD_MANAGER - 17]}-{digest}"
