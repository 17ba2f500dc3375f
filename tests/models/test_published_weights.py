"""Weight files of other projects: every tensor matched or named, and the features of their networks.

Nobody can fetch these files here. So the networks are written once more in `published_networks.py`, and
filled with random weights under the published names.
"""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import published_networks as published
import pytest
import torch
from published_networks import State, draw
from torch import Tensor, nn

from reid.models import Backbone, WeightsError, as_backbone, build_backbone, layer_depths, load_weights
from reid.models.cameras import add_cameras
from reid.models.people_vit import ClipVisual, PeopleViT, clip_adapter, stored_grid, vit_adapter
from reid.models.solider import SoliderSwin, solider_adapter

HALF = (0.5, 0.5, 0.5)
SIZES = {"256x128": (256, 128), "384x128": (384, 128)}
#: Width, blocks and heads of a small ViT, and the stages of a small Swin.
WIDTH, DEPTH, HEADS = 48, 2, 3
SWIN_WIDTH, SWIN_DEPTHS, SWIN_HEADS = 16, (2, 2, 2, 2), (1, 2, 4, 8)

both_sizes = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)


def images_of(size: tuple[int, int]) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def saved(content: object, folder: Path) -> str:
    torch.save(content, folder / "weights.pth")
    return str(folder / "weights.pth")


def vit(size: tuple[int, int], stride: int = 16, stem: bool = False) -> Backbone:
    net = PeopleViT(WIDTH, DEPTH, HEADS, size, stride=stride, stem=stem)
    return as_backbone(net, "personvit", WIDTH, adapt=vit_adapter("personvit"), distilled=True)


def clip(size: tuple[int, int], stride: int = 16) -> Backbone:
    net = ClipVisual(WIDTH, DEPTH, HEADS, 32, size, stride=stride)
    return as_backbone(net, "clip", WIDTH + 32, adapt=clip_adapter("clip"))


def swin(semantic_weight: float = 0.2) -> Backbone:
    net = SoliderSwin(SWIN_WIDTH, SWIN_DEPTHS, SWIN_HEADS, semantic_weight)
    return as_backbone(net, "solider", 8 * SWIN_WIDTH, adapt=solider_adapter("solider"), distilled=True)


def loaded(net: Backbone, content: object, folder: Path, ema: bool | None = None) -> Backbone:
    """With the weights of a file of this content, each tensor of the network from it."""
    report = load_weights(net, saved(content, folder), ema)
    assert (report.fraction, report.used) == (1.0, 1.0), report.describe()
    return net.eval()


def same(features: Tensor, expected: Tensor) -> None:
    assert expected.abs().max() > 0.1
    assert (features - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


# ---- PersonViT and TransReID-SSL


@torch.inference_mode()
@both_sizes
def test_personvit(size: tuple[int, int], tmp_path: Path) -> None:
    state, other = (draw(published.vit_shapes(WIDTH, DEPTH, 128), seed) for seed in (0, 1))
    heads = {"head.mlp.0.weight": torch.zeros(4, WIDTH), "head.last_layer.weight_g": torch.zeros(4, 1)}
    masked = {"backbone.masked_embed": torch.zeros(1, WIDTH)}
    checkpoint = {
        "student": prefixed("module.", {**prefixed("backbone.", other), **heads, **masked}),
        "teacher": {**prefixed("backbone.", state), **heads, **masked},
        "epoch": 300,
        "args": Namespace(arch="vit_small", patch_size=16, lr=5e-4),
    }
    net = loaded(vit(size), checkpoint, tmp_path)
    images = images_of(size)
    tokens = published.vit(state, images, HEADS, grid=(16, 8))
    same(net(images).flatten(1), tokens[:, 0])
    assert set(net.weight_report.dropped) == {*heads, "masked_embed"}
    resized = "position embeddings resized from 16x8 to 24x8 patches"
    assert (resized in net.weight_report.describe()) == (size == (384, 128))
    assert "taken: teacher, not student" in net.weight_report.describe()
    load_weights(net, str(tmp_path / "weights.pth"), ema=False)
    same(net(images).flatten(1), published.vit(other, images, HEADS, grid=(16, 8))[:, 0])


@torch.inference_mode()
@both_sizes
def test_transreid_ssl_with_its_convolutional_stem(size: tuple[int, int], tmp_path: Path) -> None:
    state = draw(published.vit_shapes(WIDTH, DEPTH, 128, stem=True))
    images = images_of(size)
    expected = published.vit(state, images, HEADS, grid=(16, 8))[:, 0]
    same(loaded(vit(size, stem=True), state, tmp_path)(images).flatten(1), expected)
    trained = {
        **prefixed("base.", {**state, "fc.weight": torch.zeros(1000, WIDTH), "fc.bias": torch.zeros(1000)}),
        "bottleneck.weight": torch.ones(WIDTH),
        "classifier.weight": torch.zeros(751, WIDTH),
    }
    net = loaded(vit(size, stem=True), prefixed("module.", trained), tmp_path)
    same(net(images).flatten(1), expected)
    assert set(net.weight_report.dropped) == {
        "bottleneck.weight",
        "classifier.weight",
        "fc.weight",
        "fc.bias",
    }


@torch.inference_mode()
def test_position_embeddings_of_square_images_and_overlapping_patches(tmp_path: Path) -> None:
    state = draw(published.vit_shapes(WIDTH, DEPTH, 14 * 14))
    images = images_of((256, 128))
    net = loaded(vit((256, 128), stride=12), state, tmp_path)
    same(net(images).flatten(1), published.vit(state, images, HEADS, stride=12, grid=(14, 14))[:, 0])
    assert "from 14x14 to 21x10" in net.weight_report.describe()


def test_the_patch_tokens_are_a_map() -> None:
    state = draw(published.vit_shapes(WIDTH, DEPTH, 128))
    net = PeopleViT(WIDTH, DEPTH, HEADS, (256, 128), pooling="patch").eval()
    net.load_state_dict(state)
    images = images_of((256, 128))
    with torch.inference_mode():
        tokens = published.vit(state, images, HEADS)[:, 1:]
        same(net(images), tokens.transpose(1, 2).reshape(2, WIDTH, 16, 8))


@pytest.mark.parametrize(
    ("tokens", "own", "expected"),
    [
        (128, (16, 8), (16, 8)),
        (128, (24, 8), (16, 8)),
        (192, (16, 8), (24, 8)),
        (196, (16, 8), (14, 14)),
        (210, (16, 8), (21, 10)),
        (310, (24, 8), (31, 10)),
    ],
)
def test_the_grid_of_stored_positions(tokens: int, own: tuple[int, int], expected: tuple[int, int]) -> None:
    assert stored_grid(tokens, own) == expected


# ---- CLIP and CLIP-ReID


@torch.inference_mode()
@both_sizes
def test_clip(size: tuple[int, int], tmp_path: Path) -> None:
    state = draw(published.clip_shapes(WIDTH, DEPTH, 14 * 14, 32))
    texts = {
        "positional_embedding": torch.zeros(77, 8),
        "transformer.resblocks.0.ln_1.weight": torch.zeros(8),
    }
    whole = {**prefixed("visual.", {name: t.half() for name, t in state.items()}), **texts}
    images = images_of(size)
    net = loaded(clip(size), whole, tmp_path)
    halved = {name: tensor.half().float() for name, tensor in state.items()}
    same(net(images).flatten(1), published.clip_visual(halved, images, HEADS, grid=(14, 14)))
    assert set(net.weight_report.dropped) == set(texts)


@torch.inference_mode()
@pytest.mark.parametrize(("stride", "grid"), [(16, (16, 8)), (12, (21, 10))])
def test_clip_reid(stride: int, grid: tuple[int, int], tmp_path: Path) -> None:
    state = draw(published.clip_shapes(WIDTH, DEPTH, grid[0] * grid[1], 32))
    others = {
        "cv_embed": torch.zeros(6, WIDTH),
        "bottleneck.weight": torch.ones(WIDTH),
        "bottleneck_proj.weight": torch.ones(32),
        "classifier.weight": torch.zeros(9, WIDTH),
        "classifier_proj.weight": torch.zeros(9, 32),
        "prompt_learner.cls_ctx": torch.zeros(9, 4, 8),
        "text_encoder.ln_final.weight": torch.zeros(8),
    }
    images = images_of((256, 128))
    net = loaded(clip((256, 128), stride), {**prefixed("image_encoder.", state), **others}, tmp_path)
    same(net(images).flatten(1), published.clip_visual(state, images, HEADS, stride))
    assert set(net.weight_report.dropped) == {*others, "sie_embed"} - {"cv_embed"}


# ---- camera embeddings


@torch.inference_mode()
def test_camera_embeddings_of_a_file_are_those_of_the_network(tmp_path: Path) -> None:
    images, camids = images_of((256, 128)), torch.tensor([4, 1])
    state = draw(published.vit_shapes(WIDTH, DEPTH, 128) | {"sie_embed": (6, 1, WIDTH)})
    net = vit((256, 128))
    add_cameras(net, range(6), 3.0)
    loaded(net, prefixed("base.", state), tmp_path)
    camera = 3 * state.pop("sie_embed")[camids, 0]
    same(net(images, camids).flatten(1), published.vit(state, images, HEADS, camera=camera)[:, 0])

    state = draw(published.clip_shapes(WIDTH, DEPTH, 128, 32) | {"cv_embed": (6, WIDTH)})
    table = state.pop("cv_embed")
    net = clip((256, 128))
    add_cameras(net, range(6), 1.0)
    loaded(net, {**prefixed("image_encoder.", state), "cv_embed": table}, tmp_path)
    same(net(images, camids).flatten(1), published.clip_visual(state, images, HEADS, camera=table[camids]))


# ---- SOLIDER


@torch.inference_mode()
@pytest.mark.slow
@both_sizes
@pytest.mark.parametrize("share", [0.2, 1.0])
def test_solider(share: float, size: tuple[int, int], tmp_path: Path) -> None:
    state = draw(published.solider_shapes(SWIN_WIDTH, SWIN_DEPTHS, SWIN_HEADS))
    tables = {
        f"stages.{i}.blocks.0.attn.w_msa.relative_position_index": torch.zeros(49, 49) for i in range(4)
    }
    checkpoint = {
        "teacher": {**prefixed("backbone.", {**state, **tables}), "head.mlp.0.weight": torch.zeros(4, 4)}
    }
    net = loaded(swin(share), checkpoint, tmp_path)
    images = images_of(size)
    same(net(images), published.solider(state, images, SWIN_HEADS, share))
    unused = {
        name for name in state if name.startswith(("norm0.", "norm1.", "norm2.")) or "_embed_w.3" in name
    }
    unused |= {name for name in state if "_embed_b.3" in name}
    assert set(net.weight_report.dropped) == {*unused, *tables, "head.mlp.0.weight"}


def test_the_semantic_embedding_acts_and_does_not_learn() -> None:
    state = draw(published.solider_shapes(SWIN_WIDTH, SWIN_DEPTHS, SWIN_HEADS))
    one, other = swin(0.2), swin(0.9)
    for net in (one, other):
        net.load_state_dict(state, strict=False)
    images = images_of((64, 32))
    assert (one.eval()(images) - other.eval()(images)).abs().max() > 1e-2
    assert not any(name.startswith("semantic_embed") for name, _ in one.named_parameters())


def test_a_swin_without_the_semantic_embedding_is_refused(tmp_path: Path) -> None:
    state = draw(published.solider_shapes(SWIN_WIDTH, SWIN_DEPTHS, SWIN_HEADS))
    plain = {name: tensor for name, tensor in state.items() if not name.startswith("semantic_embed")}
    with pytest.raises(
        WeightsError, match=r"Swin without SOLIDER's semantic embedding .*semantic_embed_w\.0"
    ):
        load_weights(swin(), saved(plain, tmp_path))


DEPTHS: dict[str, Callable[[float], nn.Module]] = {
    "ViT": lambda rate: PeopleViT(WIDTH, DEPTH, HEADS, (64, 32), drop_path=rate),
    "Swin": lambda rate: SoliderSwin(SWIN_WIDTH, SWIN_DEPTHS, SWIN_HEADS, drop_path=rate),
}


@pytest.mark.parametrize("network", DEPTHS)
def test_stochastic_depth_reaches_the_blocks(network: str) -> None:
    images = images_of((64, 32)).repeat(8, 1, 1, 1)
    for rate, differs in ((0.0, False), (0.5, True)):
        net = DEPTHS[network](rate).train()
        torch.manual_seed(0)
        assert bool((net(images) - net(images)).abs().max() > 1e-6) == differs


def test_layers_of_a_swin_lie_one_below_the_other() -> None:
    depths = layer_depths(swin())
    steps = [
        depths[f"stages.{stage}.blocks.{block}.norm1.weight"] for stage in range(4) for block in range(2)
    ]
    assert steps == sorted(set(steps), reverse=True)
    assert depths["patch_embed.projection.weight"] == max(depths.values()) > steps[0]
    assert depths["norm3.weight"] == steps[-1] == 1


# ---- MoCo on LUPerson


@torch.inference_mode()
@pytest.mark.slow
def test_a_resnet_that_moco_pretrained(tmp_path: Path) -> None:
    state = draw(published.resnet50_shapes())
    head = {"fc.0.weight": torch.zeros(8, 2048), "fc.2.bias": torch.zeros(8)}
    queue = {"module.queue": torch.zeros(8, 4), "module.queue_ptr": torch.zeros(1)}
    keys = prefixed("module.encoder_k.", {name: torch.zeros(()) for name in state})
    checkpoint = {
        "epoch": 200,
        "arch": "resnet50",
        "state_dict": {**prefixed("module.encoder_q.", {**state, **head}), **keys, **queue},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.3}]},
    }
    net = build_backbone("resnet50", stem_relu=True)
    images = images_of((256, 128))
    features = loaded(net, checkpoint, tmp_path)(images)
    same(features, published.resnet50(state, images))
    assert set(head) < set(net.weight_report.dropped)


# ---- what is refused, in words


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (
            published.vit_shapes(WIDTH, DEPTH, 128, stem=True),
            r"holds a ViT of 2 blocks with a convolutional stem \(ICS\); personvit is a ViT of 2 blocks\.",
        ),
        (published.vit_shapes(WIDTH, 6, 128), r"a ViT of 6 blocks; personvit is a ViT of 2 blocks"),
        (published.vit_shapes(64, DEPTH, 128), r"Both are a ViT of 2 blocks, but differ .*file \(1, 1, 64\)"),
        (published.clip_shapes(WIDTH, DEPTH, 128, 8), r"CLIP's visual tower of 2 blocks"),
        (
            published.solider_shapes(SWIN_WIDTH, SWIN_DEPTHS, SWIN_HEADS),
            r"SOLIDER's or mmcv's Swin of 8 blocks with a semantic embedding",
        ),
        ({"layer1.0.conv1.weight": (4, 4, 1, 1)}, r"file holds a plain ResNet"),
    ],
    ids=["ICS", "deeper", "wider", "CLIP", "Swin", "ResNet"],
)
def test_files_of_other_networks_are_refused(
    shapes: dict[str, tuple[int, ...]], words: str, tmp_path: Path
) -> None:
    net = vit((256, 128))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(WeightsError, match=words):
        load_weights(net, saved(draw(shapes), tmp_path))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_partial_files_are_refused(tmp_path: Path) -> None:
    state = draw(published.vit_shapes(WIDTH, DEPTH, 128))
    whole_block = {name: tensor for name, tensor in state.items() if not name.startswith("blocks.1.")}
    with pytest.raises(WeightsError, match=r"18 of the backbone's 30 tensors .*a ViT of 1 blocks"):
        load_weights(vit((256, 128)), saved(whole_block, tmp_path))
    del state["norm.bias"]
    with pytest.raises(WeightsError, match=r"1 tensors missing: norm\.bias of 30.* change every feature"):
        load_weights(vit((256, 128)), saved(state, tmp_path))


def test_a_vit_with_further_parts_is_refused(tmp_path: Path) -> None:
    state = draw(published.vit_shapes(WIDTH, DEPTH, 128)) | {"norm_pre.weight": torch.ones(WIDTH)}
    with pytest.raises(WeightsError, match=r"1 further tensors: norm_pre\.weight"):
        load_weights(vit((256, 128)), saved(state, tmp_path))
    with pytest.raises(WeightsError, match=r"3 tensors missing: proj, norm_pre"):
        del state["norm_pre.weight"], state["patch_embed.proj.bias"]
        load_weights(clip((256, 128)), saved(state, tmp_path))


def test_the_refusal_names_the_choice_that_fits(tmp_path: Path) -> None:
    """Files of the full sizes; each tensor is a single number behind its shape."""
    files = {
        "personvit_small or transreid_ssl_vit_small": published.vit_shapes(384, 12, 128),
        "transreid_ssl_vit_base_ics": published.vit_shapes(768, 12, 128, stem=True),
        "clip_vit_base_16": {
            f"visual.{key}": shape for key, shape in published.clip_shapes(768, 12, 196, 512).items()
        },
        "solider_swin_small": published.solider_shapes(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    }
    with torch.device("meta"):
        net = build_backbone("personvit_base")
    for choice, shapes in files.items():
        hollow = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
        with pytest.raises(
            WeightsError, match=rf"the backbone that this file belongs to: backbone={choice}\."
        ):
            load_weights(net, saved(hollow, tmp_path))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("personvit_small", {"image_size": (250, 128)}, r"do not fill .* 250x128.*image\.height=256"),
        ("personvit_small", {"stride": 17}, r"backbone\.stride=17"),
        ("solider_swin_tiny", {"semantic_weight": 1.5}, r"semantic_weight=1\.5 .* from 0 to 1"),
        ("personvit_base", {"drop_path": 1.0}, r"backbone\.drop_path=1\.0 .* below 1"),
        ("clip_vit_base_16", {"weights": "imagenet"}, r"No ImageNet weight file is known .*clip_vit_base_16"),
    ],
)
def test_options_that_do_not_fit_are_refused(name: str, options: dict[str, object], words: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=words):
        build_backbone(name, **options)  # type: ignore[arg-type]


def test_the_networks_say_the_pixels_of_their_weights() -> None:
    with torch.device("meta"):
        for name in (
            "personvit_small",
            "solider_swin_tiny",
            "clip_vit_base_16",
            "transreid_ssl_vit_small_ics",
        ):
            net = build_backbone(name)
            assert (net.pixel_mean, net.pixel_std) == (HALF, HALF)
        assert build_backbone("resnet50").pixel_mean is None
