"""JupyterLab as ``make lab`` starts it, with JUPYTER_CONFIG_PATH=lab: a reader's own configuration stays in force."""

import platform
from pathlib import Path

from jupytext import AsyncTextFileContentsManager

LAB = Path(__file__).resolve().parent


class Contents(AsyncTextFileContentsManager):
    """Hands out a notebook with the name and the version of this machine's Python in it.

    JupyterLab writes them into every notebook that it opens, and marks as changed those in which others stood.
    """

    async def get(self, path: str, *args, **kwargs) -> dict:
        model = await super().get(path, *args, **kwargs)
        if model["type"] == "notebook" and model["content"]:
            metadata = model["content"]["metadata"]
            if metadata.get("kernelspec", {}).get("name") == "python3":
                spec = self.parent.kernel_spec_manager.get_kernel_spec("python3")
                metadata["kernelspec"]["display_name"] = spec.display_name
                metadata.get("language_info", {})["version"] = platform.python_version()
        return model


c = get_config()  # noqa: F821
c.ServerApp.root_dir = str(LAB.parent)
c.ServerApp.contents_manager_class = Contents
c.LabApp.app_settings_dir = str(LAB)  # overrides.json
c.LabApp.default_url = "/lab/tree/chapters/README.md"
