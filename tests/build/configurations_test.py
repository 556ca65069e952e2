"""Every run configuration in launch/ is accepted by `tessera train`: a misspelt or outdated key would be refused first."""
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(os.environ["TESSERA_SOURCE_DIR"])


class Configurations(unittest.TestCase):
    def train(self, config):
        with tempfile.TemporaryDirectory() as folder:
            return subprocess.run([os.environ["TESSERA_PROGRAM"], "train", "--config", str(config), "--version",
                                   f"{folder}/no-model", "--shards", f"{folder}/no-shards"], capture_output=True,
                                  text=True, cwd=folder, check=False)

    def test_every_key_is_known_so_that_only_the_model_is_missing(self):
        configs = sorted((ROOT / "launch").rglob("*.toml"))
        self.assertTrue(configs, "no configuration found")
        for config in configs:
            with self.subTest(config=config.name):
                done = self.train(config)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn("no-model", done.stderr)

    def test_an_unknown_key_is_refused(self):  # so that the test above can fail
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
            config.write("lora_rank = 8\n")
            config.flush()
            done = self.train(config.name)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("lora_rank", done.stderr)


if __name__ == "__main__":
    unittest.main(argv=["configurations_test", "-v"])
