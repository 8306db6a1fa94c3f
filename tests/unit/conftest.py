"""What all unit tests share."""

import hypothesis

hypothesis.settings.register_profile("modelserving", deadline=None)
hypothesis.settings.load_profile("modelserving")
# A deadline for each example fails on a busy machine, and finds nothing here.
