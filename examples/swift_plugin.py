"""ms-swift (4.6) trains by GRPO against a running `smorm serve MODEL --view M`:

    SMORM_REWARD_URL=http://127.0.0.1:8000 swift rlhf --rlhf_type grpo \\
        --external_plugins examples/swift_plugin.py --reward_funcs smorm ..."""

import os

from swift.rewards import ORM, orms

from smorm.client import RewardClient


class Smorm(ORM):
    """Rewards of the server; `messages` end with the completion."""

    def __init__(self, args=None, **kwargs):
        super().__init__(args, **kwargs)
        self.client = RewardClient(os.environ["SMORM_REWARD_URL"], timeout=300, tries=10)

    def __call__(self, completions, messages, **kwargs):
        return self.client.score(messages).tolist()


orms["smorm"] = Smorm
