"""Reward models at work on a policy: choosing among responses, and rewards for reinforcement learning."""
