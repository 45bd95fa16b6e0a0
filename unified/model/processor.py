"""Images and texts to what the model takes, in Hugging Face's form.

The processor is a thin shell around the tokenizers of `unified.modalities`, so that training, evaluation and use
prepare inputs by the same code. Pixels stay uint8: the model normalises them on its device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import tokenizers
import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    BatchFeature,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)
from transformers.image_processing_utils import BaseImageProcessor

from unified.core.errors import DataError, RecipeError, quoted
from unified.core.hub_files import fetched_folder
from unified.core.version import check_format
from unified.modalities import MODALITIES
from unified.modalities.base import FORMAT, Tokenizer
from unified.modalities.image.frames import check_frames
from unified.modalities.image.reading import read_images
from unified.modalities.image.tokenizer import ImageTokenizer, read_spec, write_spec
from unified.modalities.text.tokenizer import END, SPE, TextTokenizer
from unified.model.config import UnifiedConfig
from unified.model.post_process import PostProcessing
from unified.model.processor_files import (
    PROCESSOR,
    TOKENIZER,
    image_settings,
    plain_settings,
    read_content,
    read_others,
    read_text_parts,
)
from unified.model.processor_options import Options, image_size, read_options


class UnifiedImageProcessor(PostProcessing, BaseImageProcessor):  # type: ignore[misc]
    """Images to uint8 `pixel_values`, resized as the spec says."""

    def __init__(self, patch: int = 16, **spec: Any) -> None:
        super().__init__()
        self.tokenizer = ImageTokenizer(read_spec(spec, "image processor"), patch)

    def preprocess(self, images: Any, return_tensors: Any = "pt", **options: Any) -> BatchFeature:
        """Images (or one) to `pixel_values` (b, 3, h, w); videos to (b, t, 3, h, w).

        An image is a Pillow image, a path, an array (h, w, 3) or (h, w), or a tensor (3, h, w), the last two of uint8.
        A tensor (b, 3, h, w) is a batch of images; a list of tensors (t, 3, h, w) is one of videos of equal length. A
        path or an opened file of an animated image is a video of its frames; `image.copy()` is the frame at which a
        Pillow image stands. More frames than the model reads (model.modalities.image.frames) are an error.
        `options`: keywords that image processors of transformers know. `size`: another height and width than the
        spec's, such as that of a task with queries; others must ask for what is done anyway.
        """
        size = image_size(self.tokenizer, options)
        found = read_images(images)
        for number, item in enumerate(found):
            check_frames(item, self.tokenizer.frames, f"images: number {number}")
        pixels = [
            self.tokenizer.prepare(item) if size is None else self.tokenizer.resize(item, *size) for item in found
        ]
        if any(item.shape != pixels[0].shape for item in pixels):
            shapes = sorted({tuple(item.shape) for item in pixels})
            raise DataError(f"images: expected inputs of one length, found {shapes}; give videos of equal length")
        return BatchFeature({"pixel_values": torch.stack(pixels)}, tensor_type=return_tensors)

    def to_dict(self) -> dict[str, Any]:
        """What preprocessor_config.json holds."""
        return {**write_spec(self.tokenizer.spec), "patch": self.tokenizer.patch}


class UnifiedProcessor(PostProcessing, ProcessorMixin):  # type: ignore[misc]
    """Texts and images to `input_ids`, `attention_mask` and `pixel_values`."""

    def __init__(
        self,
        image_processor: UnifiedImageProcessor,
        tokenizer: PreTrainedTokenizerFast,
        specs: Mapping[str, Mapping[str, Any]] | None = None,
        others: Mapping[str, Tokenizer] | None = None,
    ) -> None:
        """`specs` holds the settings of further modalities by name; `others` their tokenizers."""
        super().__init__(image_processor, tokenizer)
        self.specs = {name: dict(spec) for name, spec in (specs or {}).items()}
        self.others = dict(others or {})
        # A copy: Hugging Face's wrapper sets padding and truncation on the tokenizer it holds.
        copy = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._text = TextTokenizer(copy, tokenizer.model_max_length)

    @classmethod
    def from_tokenizers(cls, by_modality: Mapping[str, Tokenizer], settings: Mapping[str, Any] | None = None) -> Self:
        """Return the processor of tokenizers.

        Args:
            by_modality: Those that `unified.modalities.load_tokenizers` makes.
            settings: The settings of modalities that they were made from; those of other packages are kept.
        """
        image, text = by_modality[MODALITIES.spatial], by_modality[MODALITIES.language]
        assert isinstance(image, ImageTokenizer)
        assert isinstance(text, TextTokenizer)
        wrapped = PreTrainedTokenizerFast(
            tokenizer_object=tokenizers.Tokenizer.from_str(text.tokenizer.to_str()),
            eos_token=END,
            pad_token=END,
            mask_token=SPE,
            split_special_tokens=True,
            clean_up_tokenization_spaces=False,
            model_max_length=text.max_length,
            model_input_names=["input_ids", "attention_mask"],
        )
        made = cls(UnifiedImageProcessor(image.patch, **write_spec(image.spec)), wrapped)
        made.limit_frames(image.frames)
        for key, found in (settings or {}).items():
            name = MODALITIES.row(key).name
            if name not in MODALITIES.built_in:
                made.others[name], made.specs[name] = by_modality[name], plain_settings(found)
        return made

    def limit_frames(self, most: int | None) -> None:
        """Refuse videos and animated images of more frames than a model reads, `model.modalities.image.frames`."""
        self.image_processor.tokenizer.frames = most

    @property
    def tokenizers(self) -> dict[str, Tokenizer]:
        """The tokenizer of every modality, as training and evaluation use them."""
        own = {MODALITIES.spatial: self.image_processor.tokenizer, MODALITIES.language: self._text}
        return {**own, **self.others}

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: None = None,
        audio: None = None,
        **options: Any,
    ) -> BatchFeature:
        """Features of images, of texts, or of both; single ones are batches of one.

        Lists of values of further modalities of the model are given by their names.

        `options`: keywords that processors of transformers know, flat or in `text_kwargs`, `images_kwargs` and
        `common_kwargs`: those of texts are followed as its tokenizers do, those of images as `UnifiedImageProcessor`
        does. `return_tensors`: "pt" by default, "np", or None for lists of ids. Videos are given as `images`.

        Without options texts are closed by the end token, cut to the model's length and padded. Special tokens written
        out in a text are plain characters; `processor.tokenizers["text"].cloze(text)` gives the ids of a text with
        `<|spe|>` holes.
        """
        given = {name: options.pop(name) for name in self.others if name in options}
        asked = read_options(options)
        if videos is not None or audio is not None:
            raise DataError("processor: expected images and texts, got videos= or audio=. Hint: give videos as images=")
        if images is None and text is None and not given:
            names = [f"{name}=…" for name in ("images", "text", *self.others)]
            raise DataError(f"nothing to process; give {', '.join(names[:-1])} or {names[-1]}")
        features: dict[str, Any] = {}
        if text is not None:
            features |= self._texts([text] if isinstance(text, str) else list(text), asked)
        if images is not None:
            features |= self.image_processor(images, return_tensors=asked.return_tensors, **asked.images)
        for name, values in given.items():
            tokenizer = self.others[name]
            features |= MODALITIES[name].make_features(tokenizer.tokens([tokenizer.prepare(value) for value in values]))
        return BatchFeature(features, tensor_type=asked.return_tensors)

    def _texts(self, texts: list[Any], asked: Options) -> Mapping[str, Any]:
        """Ids and masks; where nothing is asked for, by the code of training."""
        if asked.text.get("padding_side") == "left":
            raise DataError(
                "processor: padding_side: expected 'right', got 'left'. Hint: positions are counted from the first "
                "token, padding included, so texts that are padded on the left would be read at other places"
            )
        if not asked.text:
            batch = self._text.tokens([self._text.prepare(item) for item in texts])
            found = {"input_ids": batch.values, "attention_mask": batch.mask.long()}
            return found if asked.return_tensors is not None else {name: x.tolist() for name, x in found.items()}
        given = {name: value for name, value in asked.text.items() if value is not None}
        options = {"padding": True, "truncation": True, **given}
        from_left = options.get("truncation_side", self.tokenizer.truncation_side) == "left"
        if options["truncation"] is True and not from_left and not options.get("return_overflowing_tokens"):
            most = options.get("max_length")
            most = most if isinstance(most, int) else 0
            texts = [self._text.shorten(item, most) if isinstance(item, str) else item for item in texts]
        return self.tokenizer(texts, return_tensors=asked.return_tensors, **options)  # type: ignore[no-any-return]

    def to_dict(self) -> dict[str, Any]:
        """What processor_config.json holds."""
        return {
            "format": FORMAT,
            "processor_class": type(self).__name__,
            "image_processor": self.image_processor.to_dict(),
            "specs": self.specs,
        }

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> Any:
        """Write the files of the processor, as `ProcessorMixin` does, and a folder for each further modality."""
        written = super().save_pretrained(save_directory, **kwargs)
        for name, tokenizer in self.others.items():
            tokenizer.save(Path(save_directory) / name)
        return written

    @classmethod
    def from_pretrained(cls, name: Any, **kwargs: Any) -> Any:
        """Read the processor in a folder or on the hub; one without texts where that was saved.

        Args:
            name: A folder, or a name on the hub.
            kwargs: `revision` and `subfolder`, as of transformers; others change nothing.

        Raises:
            DataError: A file is damaged or not there, or names what is not read; the message names the file.
            HubError: The hub does not give the files.
        """
        folder = fetched_folder(name, kwargs)
        content = read_content(folder)
        check_format(content.get("format", FORMAT), FORMAT, str(folder / PROCESSOR), RecipeError)
        images = UnifiedImageProcessor(**image_settings(content, folder))
        others = read_others(content.get("specs", {}), folder)
        if content.get("texts") is False:
            return ImageOnlyProcessor(images, content.get("specs"), others)
        found, settings = read_text_parts(folder)
        made = UnifiedProcessor if cls is ImageOnlyProcessor else cls
        options = {option: value for option, value in asdict(settings).items() if value is not None}
        try:
            wrapped = PreTrainedTokenizerFast(tokenizer_object=found, **options)
            return made(images, wrapped, content.get("specs"), others)
        except Exception as error:  # the class that `tokenizers` raises where parts of a file contradict each other
            raise DataError(f"{folder / TOKENIZER}: expected a whole tokenizer, got {quoted(error)}") from error


NO_TEXT = (
    "this model came without a text tokenizer, so it reads no words: give ids (b, n) instead, or convert its "
    "checkpoint again with `unified convert uni-perceiver CKPT OUT --tokenizer FILE`"
)


class _WithoutText(dict[str, Tokenizer]):
    """The tokenizers of a model without texts, which says so where one asks for them."""

    def __missing__(self, modality: str) -> Tokenizer:
        raise DataError(NO_TEXT if modality == MODALITIES.language else f"no tokenizer for {modality!r}")


class ImageOnlyProcessor(UnifiedProcessor):
    """The processor of a model whose vocabulary is not at hand."""

    def __init__(
        self,
        image_processor: UnifiedImageProcessor,
        specs: Mapping[str, Mapping[str, Any]] | None = None,
        others: Mapping[str, Tokenizer] | None = None,
    ) -> None:
        ProcessorMixin.__init__(self, image_processor)
        self.specs = {name: dict(spec) for name, spec in (specs or {}).items()}
        self.others = dict(others or {})

    @property
    def tokenizers(self) -> dict[str, Tokenizer]:
        """That of images; asking for that of texts is an error that says what to do."""
        return _WithoutText({MODALITIES.spatial: self.image_processor.tokenizer, **self.others})

    def to_dict(self) -> dict[str, Any]:
        """What processor_config.json holds: the class that the Auto classes know, and that it takes no texts."""
        return {**super().to_dict(), "processor_class": UnifiedProcessor.__name__, "texts": False}

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: None = None,
        audio: None = None,
        **options: Any,
    ) -> BatchFeature:
        """Features of images."""
        if text is not None:
            raise DataError(NO_TEXT)
        return super().__call__(images, None, videos, audio, **options)


def register() -> None:
    """Make the Auto classes of transformers know this package's configuration, processor and tokenizer."""
    AutoConfig.register(UnifiedConfig.model_type, UnifiedConfig, exist_ok=True)
    AutoTokenizer.register(UnifiedConfig, fast_tokenizer_class=PreTrainedTokenizerFast, exist_ok=True)
    AutoImageProcessor.register(UnifiedConfig, image_processor_classes={"pil": UnifiedImageProcessor}, exist_ok=True)
    AutoProcessor.register(UnifiedConfig, UnifiedProcessor, exist_ok=True)
