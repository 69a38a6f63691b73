"""Detection of references to other files in an ONNX file, against the package `onnx`."""

import contextlib
import random

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, numpy_helper

from medistill.runtime.onnx_file import has_external_data
from tests.unit.runtime.conftest import AXES, IMAGE, LOGITS, MEANS, graph_model, linear_model


def outside(name: str = "outside") -> TensorProto:
    """A tensor whose two numbers are in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="numbers.bin")
    return tensor


def inside(name: str = "inside") -> TensorProto:
    return numpy_helper.from_array(np.array([1, 2], np.float32), name)


def attribute(**fields) -> AttributeProto:
    made = AttributeProto(name="any")
    for field, value in fields.items():
        if isinstance(value, list):
            getattr(made, field).extend(value)
        else:
            getattr(made, field).CopyFrom(value)
    return made


def sparse(values: TensorProto, indices: TensorProto) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[2])


def graph(**fields) -> onnx.GraphProto:
    return onnx.GraphProto(name="inner", **fields)


def node(given: AttributeProto) -> onnx.NodeProto:
    return onnx.NodeProto(op_type="Any", attribute=[given])


PLACES = {
    "initializer": lambda t: {"graph": graph(initializer=[t])},
    "the last of several initializers": lambda t: {"graph": graph(initializer=[inside(), inside("b"), t])},
    "values of a sparse initializer": lambda t: {"graph": graph(sparse_initializer=[sparse(t, inside())])},
    "indices of a sparse initializer": lambda t: {"graph": graph(sparse_initializer=[sparse(inside(), t)])},
    "attribute": lambda t: {"graph": graph(node=[node(attribute(t=t))])},
    "attribute of several": lambda t: {"graph": graph(node=[node(attribute(tensors=[inside(), t]))])},
    "sparse attribute": lambda t: {"graph": graph(node=[node(attribute(sparse_tensor=sparse(t, inside())))])},
    "sparse attributes": lambda t: {"graph": graph(node=[node(attribute(sparse_tensors=[sparse(inside(), t)]))])},
    "subgraph": lambda t: {"graph": graph(node=[node(attribute(g=graph(initializer=[t])))])},
    "one of several subgraphs": lambda t: {
        "graph": graph(node=[node(attribute(graphs=[graph(), graph(initializer=[t])]))])
    },
    "subgraph of a subgraph": lambda t: {
        "graph": graph(node=[node(attribute(g=graph(node=[node(attribute(g=graph(initializer=[t])))])))])
    },
    "node of a function": lambda t: {"functions": [onnx.FunctionProto(node=[node(attribute(t=t))])]},
    "default of a function's attribute": lambda t: {
        "functions": [onnx.FunctionProto(attribute_proto=[attribute(t=t)])]
    },
    "training": lambda t: {"training_info": [onnx.TrainingInfoProto(algorithm=graph(initializer=[t]))]},
    "start of a training": lambda t: {"training_info": [onnx.TrainingInfoProto(initialization=graph(initializer=[t]))]},
}


@pytest.mark.parametrize("place", PLACES)
def test_numbers_in_another_file_are_found_wherever_a_tensor_may_be(place):
    make = PLACES[place]
    assert has_external_data(onnx.ModelProto(**make(outside())).SerializeToString())
    assert not has_external_data(onnx.ModelProto(**make(inside())).SerializeToString())


def test_every_field_of_onnx_that_may_hold_a_tensor_is_looked_into():
    """Walks the descriptors of the package, so that a field added by a new version of ONNX fails here."""
    found, waiting = set(), [onnx.ModelProto.DESCRIPTOR]
    seen = {waiting[0].name}
    holders = _holders_of_tensors()
    while waiting:
        message = waiting.pop()
        for field in message.fields:
            if field.message_type is not None and field.message_type.name in holders:
                found.add((message.name, field.number, field.message_type.name))
                if field.message_type.name not in seen:
                    seen.add(field.message_type.name)
                    waiting.append(field.message_type)
    from medistill.runtime import onnx_file

    names = ("ModelProto", "TrainingInfoProto", "FunctionProto", "GraphProto", "NodeProto", "AttributeProto")
    names += ("SparseTensorProto", "TensorProto")
    ours = {
        (names[parent], number, names[child])
        for parent, children in onnx_file._CHILDREN.items()
        for number, child in children.items()
    }
    assert ours == found
    assert onnx.TensorProto.DESCRIPTOR.fields_by_name["data_location"].number == onnx_file._DATA_LOCATION


def _holders_of_tensors() -> set[str]:
    """Names of the messages that may contain a TensorProto at any depth, and its own."""
    messages = list(onnx.onnx_ml_pb2.DESCRIPTOR.message_types_by_name.values())
    holders = {"TensorProto"}
    while True:
        more = {
            message.name
            for message in messages
            if any(field.message_type is not None and field.message_type.name in holders for field in message.fields)
        }
        if more <= holders:
            return holders
        holders |= more


def test_two_graphs_that_protobuf_merges_are_both_looked_into():
    plain = linear_model([1.0] * 3, [0.0] * 3, size=8, batch="batch")
    more = onnx.ModelProto(graph=graph(initializer=[outside()])).SerializeToString()
    assert any(tensor.name == "outside" for tensor in onnx.load_from_string(plain + more).graph.initializer)
    assert has_external_data(plain + more)
    assert has_external_data(more + plain)


def test_numbers_that_look_like_a_tag_are_not_read_as_one():
    like_the_field = np.frombuffer(bytes([14 << 3, 1] * 64), np.uint8)
    model = graph_model(MEANS, [IMAGE], [LOGITS], {"axes": AXES, "bytes": like_the_field})
    assert not has_external_data(model)
    named = TensorProto(name="p\x01", data_type=1, dims=[2], raw_data=b"p\x01" * 4)
    assert not has_external_data(onnx.ModelProto(graph=graph(initializer=[named])).SerializeToString())


def test_a_location_of_more_bits_than_an_enum_has_is_what_protobuf_makes_of_it():
    tensor = inside().SerializeToString() + bytes([14 << 3, 0x81, 0x80, 0x80, 0x80, 0x10])  # 2^32 + 1
    model = b"\x3a" + bytes([len(tensor) + 2]) + b"\x2a" + bytes([len(tensor)]) + tensor
    assert onnx.load_from_string(model).graph.initializer[0].data_location == TensorProto.EXTERNAL
    assert has_external_data(model)


@pytest.mark.parametrize("content", [b"nothing of the kind", b"\x3a\xff\x01", b"\xff" * 40, b"\x00\x01", b"\x3b\x3c"])
def test_what_is_no_protobuf_is_said(content):
    with pytest.raises(ValueError, match="protobuf"):
        has_external_data(content)


def _is_external(message) -> bool:
    if isinstance(message, TensorProto) and message.data_location == TensorProto.EXTERNAL:
        return True
    for field, value in message.ListFields():
        if field.message_type is not None:
            items = [value] if hasattr(value, "ListFields") else value
            if any(_is_external(item) for item in items):
                return True
    return False


def test_no_damage_hides_what_onnx_finds():
    files = [onnx.ModelProto(**make(outside())).SerializeToString() for make in PLACES.values()]
    rng, still_external = random.Random(0), 0
    for _ in range(5000):
        damaged = bytearray(rng.choice(files))
        for _ in range(rng.choice([1, 1, 3])):
            place = rng.randrange(len(damaged))
            match rng.randrange(3):
                case 0:
                    damaged[place] ^= 1 << rng.randrange(8)
                case 1:
                    del damaged[place : place + rng.randrange(1, 4)]
                case _:
                    damaged[place:place] = rng.randbytes(rng.randrange(1, 4))
        try:
            external = _is_external(onnx.load_from_string(bytes(damaged)))
        except Exception:
            continue
        still_external += external
        with contextlib.suppress(ValueError):  # a refusal is fine, too
            assert has_external_data(bytes(damaged)) or not external
    assert still_external > 500
