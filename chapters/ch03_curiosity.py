# %%
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from rlbook_utils.definitions import load_chapter

FOUNDATIONS, POLICIES = load_chapter("ch00_foundations"), load_chapter("ch06_policy_optimisation")


# %%
class Surprise(nn.Module):
    """Curiosity as a prediction error, in the features of an encoder that it does not train.

    Every curiosity here has this interface: ``surprise`` gives the intrinsic rewards [B] of B transitions, ``losses``
    what to train on, by name. obs, next_obs: [B, ...]; actions: [B], whole numbers.
    """

    def __init__(self, encoder: nn.Module, features: int, actions: int, hidden: int = 128) -> None:
        super().__init__()
        self.encoder, self.actions = encoder, actions
        self.forward_model = FOUNDATIONS.mlp(features + actions, hidden, features)

    def errors(self, features: torch.Tensor, actions: torch.Tensor, following: torch.Tensor) -> torch.Tensor:  # fmt: skip
        """Squared errors of the forward model, which alone feels them. [B, F], [B], [B, F] -> [B]."""
        inputs = torch.cat([features.detach(), F.one_hot(actions, self.actions)], 1)  # [B, F + A]
        return (self.forward_model(inputs) - following.detach()).square().mean(1)

    @torch.no_grad()
    def surprise(self, obs: torch.Tensor, actions: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:  # fmt: skip
        return self.errors(self.encoder(obs), actions, self.encoder(next_obs))

    def losses(self, obs: torch.Tensor, actions: torch.Tensor, next_obs: torch.Tensor) -> dict[str, torch.Tensor]:  # fmt: skip
        with torch.no_grad():
            features, following = self.encoder(obs), self.encoder(next_obs)  # [B, F]
        return {"forward": self.errors(features, actions, following).mean()}


# %%
class ICM(Surprise):
    """The intrinsic curiosity module: surprise in features that an inverse model has trained (Pathak et al. 2017)."""

    def __init__(self, encoder: nn.Module, features: int, actions: int, hidden: int = 128) -> None:
        super().__init__(encoder, features, actions, hidden)
        self.inverse_model = FOUNDATIONS.mlp(2 * features, hidden, actions)

    def losses(self, obs: torch.Tensor, actions: torch.Tensor, next_obs: torch.Tensor) -> dict[str, torch.Tensor]:  # fmt: skip
        features, following = self.encoder(obs), self.encoder(next_obs)  # [B, F]
        logits = self.inverse_model(torch.cat([features, following], 1))  # [B, A]
        return {
            "forward": self.errors(features, actions, following).mean(),
            "inverse": F.cross_entropy(logits, actions),
        }


# %%
class RND(nn.Module):
    """Random network distillation: surprise at an observation, whatever led to it (Burda et al. 2019b).

    Observations come normalised and clipped: a random network cannot adapt to their scale.
    """

    def __init__(self, make_encoder: Callable[[], nn.Module], features: int) -> None:
        super().__init__()
        self.target = make_encoder().requires_grad_(False)
        self.predictor = nn.Sequential(make_encoder(), FOUNDATIONS.mlp(features, 128, features))

    def errors(self, next_obs: torch.Tensor) -> torch.Tensor:
        return (self.predictor(next_obs) - self.target(next_obs)).square().mean(1)  # [B]

    @torch.no_grad()
    def surprise(self, obs: torch.Tensor, actions: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:  # fmt: skip
        return self.errors(next_obs)

    def losses(self, obs: torch.Tensor, actions: torch.Tensor, next_obs: torch.Tensor) -> dict[str, torch.Tensor]:  # fmt: skip
        return {"distillation": self.errors(next_obs).mean()}
