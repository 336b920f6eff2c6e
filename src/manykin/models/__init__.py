"""The table of models: one line each, imported only when the model is used.

Third parties add theirs through the entry-point group ``manykin.models`` (name -> ``module:Class``).
"""

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from manykin.errors import InvalidInput, suggest

if TYPE_CHECKING:
    from manykin.contract import GenerativeModel

TABLE: dict[str, str] = {
    "box": "manykin.models.classical.box:Box",
    "gaussian": "manykin.models.classical.gaussian:Gaussian",
    "gaussian-mixture": "manykin.models.classical.gaussian_mixture:GaussianMixture",
    "kde": "manykin.models.classical.kde:KDE",
    "independent": "manykin.models.classical.independent:Independent",
    "mixture": "manykin.models.classical.mixture:Mixture",
    "ppca": "manykin.models.classical.ppca:PPCA",
    "gpt": "manykin.models.autoregressive.gpt:GPT",
    "pixelcnn": "manykin.models.autoregressive.pixelcnn:PixelCNN",
    "realnvp": "manykin.models.flows.realnvp:RealNVP",
    "nsf": "manykin.models.flows.nsf:NSF",
    "vae": "manykin.models.latent.vae:VAE",
    "autoencoder": "manykin.models.latent.autoencoder:Autoencoder",
    "rbm": "manykin.models.energy.rbm:RBM",
    "ebm": "manykin.models.energy.ebm:EBM",
    "ddpm": "manykin.models.diffusion.ddpm:DDPM",
    "flow-matching": "manykin.models.diffusion.flow_matching:FlowMatching",
    "gan": "manykin.models.adversarial.gan:GAN",
}


def names() -> list[str]:
    """All model names, ours first, then those of installed plugins."""
    return [*TABLE, *sorted(point.name for point in entry_points(group="manykin.models") if point.name not in TABLE)]


def get(name: str) -> "type[GenerativeModel]":
    """The class behind a name.

    Raises:
        InvalidInput: for an unknown name, with the nearest known one.
    """
    target = TABLE.get(name) or next((point.value for point in entry_points(group="manykin.models") if point.name == name), None)
    if target is None:
        raise InvalidInput(f"model {name!r} is not known.{suggest(name, names())}")
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)  # type: ignore[no-any-return]


def name_of(model: "type[GenerativeModel]") -> str | None:
    """The name under which a class is in the table or a plugin; None for a class that is in neither."""
    target = f"{model.__module__}:{model.__qualname__}"
    plugins = {point.name: point.value for point in entry_points(group="manykin.models")}
    return next((name for name, value in {**plugins, **TABLE}.items() if value == target), None)
