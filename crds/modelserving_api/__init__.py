"""The one API contract of ModelServing: what a resource may say and what its status tells.

Pure data: this package opens no socket, reads no file, and imports neither of the programs.
"""

from modelserving_api.names import GROUP, KIND, PLURAL, VERSION
from modelserving_api.resource import InvalidSpecError, ModelServing
from modelserving_api.spec import ModelServingSpec
from modelserving_api.status import ModelServingStatus

__all__ = [
    "GROUP",
    "KIND",
    "PLURAL",
    "VERSION",
    "InvalidSpecError",
    "ModelServing",
    "ModelServingSpec",
    "ModelServingStatus",
]
