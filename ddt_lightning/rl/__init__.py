"""Practice with a reward: samples of a policy, and what they are worth."""
