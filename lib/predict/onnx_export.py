"""A trained Keras network as an ONNX file that ONNX Runtime is fast with."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from lib.paths import atomic


def write(trained: str | Path, path: str | Path) -> None:
    """Write a trained network as ONNX.

    Parameters
    ----------
    trained : path
        ``model.keras``: pixels, float32 (n, crop, crop, channels) -> probabilities.
    path : path
        File to write: the same pixels -> ``features`` (n, features) and ``probabilities``
        (n, classes), float32. It appears when it is whole.
    """
    import keras
    import onnx

    from lib import models

    model = keras.models.load_model(trained, compile=False, safe_mode=True)
    scale, replaced = _first_layers(model)
    plain = keras.models.clone_model(
        model, clone_function=lambda layer: replaced.get(layer.name) or _copy(layer)
    )
    for layer in plain.layers:
        if layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    if replaced:
        stem = next(x for x in plain.layers if isinstance(x, keras.layers.Conv2D))
        kernel, *bias = stem.get_weights()
        stem.set_weights([kernel * scale[:, np.newaxis], *bias])
    outputs = {"features": plain.get_layer(models.FEATURES).output, "probabilities": plain.output}
    network = keras.Model(plain.input, outputs)
    network(np.zeros((1, *model.input.shape[1:]), np.float32))  # Keras exports what has been called
    with atomic(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Keras mending tf2onnx for NumPy 2
        network.export(temporary, format="onnx", verbose=False)
        onnx.save(_with_wide_gates(onnx.load(temporary)), temporary)


def _first_layers(model) -> tuple[np.ndarray, dict]:
    """What takes the place of the layers that scale and shift pixels before the first convolution.

    ONNX Runtime spends 6 to 14 ns a value on each of them where images have 1 or 3 channels, 8 % of
    the time of a B0. The product of the scales can as well be part of the convolution's kernel, and
    what is left to add, a constant as large as the image, is added in a tenth of the time.

    Returns
    -------
    scale : ndarray, (1 or channels,)
        Factor on the kernel.
    replaced : dict of str to keras.Layer
        By the name of the layer; empty where anything else precedes the convolution.
    """
    import keras

    scale, shift, found = np.ones(1), np.zeros(1), []
    for layer in model.layers[1:]:
        if isinstance(layer, keras.layers.Rescaling | keras.layers.Normalization):
            factor, offset = _scale_and_offset(layer)
            scale, shift = scale * factor, shift * factor + offset
            found.append(layer)
        elif isinstance(layer, keras.layers.Conv2D):
            break
        elif not isinstance(layer, keras.layers.Concatenate | keras.layers.ZeroPadding2D):
            return scale, {}
    replaced = {x.name: keras.layers.Activation("linear", name=x.name) for x in found}
    if found and shift.any():
        last = found[-1]
        constant = np.broadcast_to(shift / scale, last.output.shape[1:])
        replaced[last.name] = keras.layers.Rescaling(1.0, constant.tolist(), name=last.name)
    return scale, replaced


def _scale_and_offset(layer) -> tuple[np.ndarray, np.ndarray]:
    """A layer that scales pixels as factor and offset, float64, (1 or channels,)."""
    import keras

    if isinstance(layer, keras.layers.Rescaling):
        return np.ravel(layer.scale).astype(float), np.ravel(layer.offset).astype(float)
    mean, deviation = np.ravel(layer.mean), np.sqrt(np.ravel(layer.variance))
    return 1 / deviation.astype(float), -mean / deviation.astype(float)


def _copy(layer):
    """Copy of a layer without its weights; Normalization as the Rescaling that it amounts to.

    tf2onnx would make inputs of the constants that Normalization keeps.
    """
    import keras

    if isinstance(layer, keras.layers.Normalization):
        factor, offset = _scale_and_offset(layer)
        return keras.layers.Rescaling(factor.tolist(), offset.tolist(), name=layer.name)
    return type(layer).from_config(layer.get_config())


def _with_wide_gates(network):
    """The same network, whose gates ONNX Runtime multiplies without turning images around.

    A squeeze-and-excitation block (Hu et al. 2018) multiplies images, (n, channels, height, width),
    by gates, (n, channels, 1, 1). ONNX Runtime keeps images in blocks of channels, as convolutions
    want them, but leaves that order for a product of two shapes and takes it up again afterwards.
    Gates repeated to the images' size, and a number of images that has one name throughout, spare
    it both: JPEG to probability, a B0 of 224 px takes 0.89 of the time.

    Parameters
    ----------
    network : onnx.ModelProto
        It is changed in place.

    Returns
    -------
    network : onnx.ModelProto
    """
    _name_the_number_of_images(network)
    graph, values = network.graph, _values(network)
    nodes = []
    for node in graph.node:
        if node.op_type == "Mul" and all(name in values for name in node.input):
            image, gate = (_sizes(values[name]) for name in node.input)
            if len(image) == len(gate) == 4 and gate == [*image[:2], 1, 1] != image:
                wide = graph.value_info.add()
                wide.CopyFrom(values[node.input[0]])
                wide.name = f"{node.output[0]}_gate"  # one gate may be in several products
                nodes.append(_repeated(graph, node.input[1], wide.name, image[2:]))
                node.input[1] = wide.name
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return network


def _name_the_number_of_images(network) -> None:
    """Call it n, and let shape inference follow it through the network.

    It loses the name where a Reshape is told -1, that is, to reckon the number of images from what
    the other sizes leave over; 0 has it copied. Both are the same where an image keeps its size.
    """
    graph, values = network.graph, _values(network)
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    for node in graph.node:
        if node.op_type == "Reshape" and node.input[0] in values and node.output[0] in values:
            before, after = (_sizes(values[name]) for name in (node.input[0], node.output[0]))
            known = before and all(isinstance(size, int) for size in before[1:] + after[1:])
            if known and np.prod(before[1:]) == np.prod(after[1:]):
                shape = f"{node.output[0]}_shape"
                node.input[1] = _constant(graph, shape, [0, *after[1:]], np.int64)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _repeated(graph, gate: str, wide: str, size: list[int]):
    """The node that repeats a gate over an image of some height and width."""
    from onnx import helper

    times = _constant(graph, f"{wide}_times", [1, 1, *size], np.float32)
    how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return helper.make_node("Resize", [gate, "", times], [wide], mode="nearest", **how)


def _constant(graph, name: str, values: list, dtype: type) -> str:
    """Add a constant to the graph: its name."""
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.array(values, dtype), name))
    return name


def _values(network) -> dict:
    """What ONNX's shape inference knows of the values of a network, by name."""
    from onnx import shape_inference

    graph = shape_inference.infer_shapes(network).graph
    return {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}


def _sizes(value) -> list[int | str]:
    """Sizes of a value; its name, which may be empty, where one is free."""
    return [size.dim_value or size.dim_param for size in value.type.tensor_type.shape.dim]
