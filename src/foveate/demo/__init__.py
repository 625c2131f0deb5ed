"""The main job on generated scenes, with no network and no data: scenes, trained classifiers, and a run of both."""

from foveate.demo.classifier import PREPROCESS, SceneNet, scene_net
from foveate.demo.scenes import CLASSES, Scenes

__all__ = ["CLASSES", "PREPROCESS", "SceneNet", "Scenes", "scene_net"]
