"""No test touches the network or the user's caches."""

import os
import tempfile

_home = tempfile.mkdtemp(prefix="openstory-tests-")
os.environ.update(
    HF_HOME=_home,
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
)
