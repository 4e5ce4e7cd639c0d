#!/usr/bin/env python3
"""Turn a float TFLite graph into ONNX, without TensorFlow.

    tflite2onnx.py convert IN.tflite OUT.onnx
    tflite2onnx.py check   IN.tflite MODEL.onnx

`convert` writes the same bytes for the same input, whatever the versions of numpy, onnx and
protobuf: a model card pins their sha256. `check` runs both files on the same seeded input, the
one in the TFLite interpreter, the other in ONNX Runtime, and fails where an output differs by
more than 2e-4 of its range. Needs numpy, onnx and tflite; `check` needs onnxruntime and
ai-edge-litert as well.

The one hard idea is the layout. TFLite keeps pictures as N,H,W,C, ONNX's convolutions want
N,C,H,W. Every rank-4 tensor of the graph is therefore held as N,C,H,W from the input on, and is
turned back only where the order of its numbers can be seen: at a RESHAPE and at an output.
Weights of half precision (stored so, then DEQUANTIZEd) become float32 constants.

An operation is one method named after its TFLite name; one that has no method is an error that
names the operation and the tensor it makes.
"""

import argparse
import os
import sys

import numpy as np
import onnx
import tflite
from onnx import TensorProto, helper, numpy_helper

# Low enough for ONNX Runtime 1.17 and for tract.
OPSET = 14
IR_VERSION = 8

OPERATOR_NAMES = {
    code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)
}
CONSTANT_TYPES = {
    tflite.TensorType.FLOAT32: np.float32,
    tflite.TensorType.FLOAT16: np.float16,
    tflite.TensorType.INT32: np.int32,
    tflite.TensorType.INT64: np.int64,
}

NHWC_TO_NCHW = [0, 3, 1, 2]
NCHW_TO_NHWC = [0, 2, 3, 1]


class ConversionError(Exception):
    """The graph holds something this converter does not know."""


class Operator:
    """One operator of the TFLite graph, with its options decoded."""

    def __init__(self, raw, name):
        self.raw = raw
        self.name = name
        self.inputs = [int(i) for i in raw.InputsAsNumpy()]
        self.outputs = [int(i) for i in raw.OutputsAsNumpy()]

    def options(self, options_class):
        table = self.raw.BuiltinOptions()
        if table is None:
            raise ConversionError(f"{self.name}: has no options")
        options = options_class()
        options.Init(table.Bytes, table.Pos)
        return options


class Converter:
    def __init__(self, tflite_bytes):
        if tflite_bytes[4:8] != b"TFL3":
            raise ConversionError("not a TFLite file (no TFL3 mark at byte 4)")
        self.model = tflite.Model.GetRootAsModel(tflite_bytes, 0)
        if self.model.SubgraphsLength() != 1:
            raise ConversionError(f"{self.model.SubgraphsLength()} subgraphs, expected 1")
        self.graph = self.model.Subgraphs(0)
        self.nodes = []
        self.initializers = []
        self.constants = self._read_constants()
        self.names = {}  # TFLite tensor index → ONNX value that holds it
        self.made = 0

    # -- reading the TFLite side ---------------------------------------------------------

    def shape(self, index):
        tensor = self.graph.Tensors(index)
        return [int(n) for n in tensor.ShapeAsNumpy()] if tensor.ShapeLength() else []

    def tensor_name(self, index):
        return self.graph.Tensors(index).Name().decode()

    def _read_constants(self):
        constants = {}
        for index in range(self.graph.TensorsLength()):
            tensor = self.graph.Tensors(index)
            buffer = self.model.Buffers(tensor.Buffer())
            if not buffer.DataLength():
                continue
            if tensor.Sparsity() is not None:
                raise ConversionError(f"tensor {self.tensor_name(index)}: sparse weights")
            dtype = CONSTANT_TYPES.get(tensor.Type())
            if dtype is None:
                raise ConversionError(
                    f"tensor {self.tensor_name(index)}: element type {tensor.Type()}; "
                    "only float graphs are converted"
                )
            values = np.frombuffer(buffer.DataAsNumpy().tobytes(), dtype)
            constants[index] = values.reshape(self.shape(index))
        return constants

    def float_constant(self, op, index):
        if index not in self.constants:
            raise ConversionError(
                f"{op.name}: {self.tensor_name(index)} is computed, expected a constant"
            )
        return self.constants[index].astype(np.float32)

    # -- writing the ONNX side -----------------------------------------------------------

    def fresh(self, stem):
        self.made += 1
        return f"{stem}_{self.made}"

    def node(self, kind, inputs, **attributes):
        output = self.fresh(kind)
        self.nodes.append(
            helper.make_node(kind, inputs, [output], name=f"{output}_node", **attributes)
        )
        return output

    def constant(self, values):
        # np.array, not ascontiguousarray: that one would turn a scalar into a vector.
        name = self.fresh("const")
        self.initializers.append(numpy_helper.from_array(np.array(values, order="C"), name))
        return name

    def activation(self, op, value, kind):
        if kind == tflite.ActivationFunctionType.NONE:
            return value
        if kind == tflite.ActivationFunctionType.RELU:
            return self.node("Relu", [value])
        if kind == tflite.ActivationFunctionType.RELU6:
            zero, six = self.constant(np.float32(0)), self.constant(np.float32(6))
            return self.node("Clip", [value, zero, six])
        raise ConversionError(
            f"{op.name} making {self.tensor_name(op.outputs[0])}: fused activation {kind}"
        )

    def operand(self, index, rank):
        """A value of a broadcasting operation; constants are laid out like the other side."""
        if index not in self.constants:
            return self.names[index]
        values = self.constants[index].astype(np.float32)
        if rank == 4:
            values = values.reshape((1,) * (4 - values.ndim) + values.shape)
            values = values.transpose(NHWC_TO_NCHW)
        return self.constant(values)

    # -- operations: each returns the ONNX value of its output, in N,C,H,W ---------------

    def op_conv_2d(self, op):
        options = op.options(tflite.Conv2DOptions)
        weights = self.float_constant(op, op.inputs[1])  # out, height, width, in
        return self._convolution(op, options, weights.transpose(NHWC_TO_NCHW), groups=1)

    def op_depthwise_conv_2d(self, op):
        options = op.options(tflite.DepthwiseConv2DOptions)
        weights = self.float_constant(op, op.inputs[1])  # 1, height, width, out
        groups = self.shape(op.inputs[0])[3]
        return self._convolution(op, options, weights.transpose(3, 0, 1, 2), groups)

    def _convolution(self, op, options, weights, groups):
        height, width = self.shape(op.inputs[0])[1:3]
        kernel = list(weights.shape[2:])
        strides = [options.StrideH(), options.StrideW()]
        dilations = [options.DilationHFactor(), options.DilationWFactor()]
        if options.Padding() == tflite.Padding.VALID:
            pads = [0, 0, 0, 0]
        else:
            top, bottom = same_padding(height, kernel[0], strides[0], dilations[0])
            left, right = same_padding(width, kernel[1], strides[1], dilations[1])
            pads = [top, left, bottom, right]
        inputs = [self.names[op.inputs[0]], self.constant(weights)]
        if len(op.inputs) > 2 and op.inputs[2] >= 0:
            inputs.append(self.constant(self.float_constant(op, op.inputs[2])))
        value = self.node(
            "Conv",
            inputs,
            group=groups,
            kernel_shape=kernel,
            strides=strides,
            dilations=dilations,
            pads=pads,
        )
        return self.activation(op, value, options.FusedActivationFunction())

    def op_add(self, op):
        rank = len(self.shape(op.outputs[0]))
        value = self.node("Add", [self.operand(index, rank) for index in op.inputs])
        options = op.options(tflite.AddOptions)
        return self.activation(op, value, options.FusedActivationFunction())

    def op_reshape(self, op):
        value = self.names[op.inputs[0]]
        target = self.shape(op.outputs[0])
        if len(self.shape(op.inputs[0])) == 4:
            value = self.node("Transpose", [value], perm=NCHW_TO_NHWC)
        value = self.node("Reshape", [value, self.constant(np.array(target, np.int64))])
        if len(target) == 4:
            value = self.node("Transpose", [value], perm=NHWC_TO_NCHW)
        return value

    def op_concatenation(self, op):
        options = op.options(tflite.ConcatenationOptions)
        rank = len(self.shape(op.outputs[0]))
        axis = options.Axis() % rank
        if rank == 4:
            axis = NHWC_TO_NCHW.index(axis)
        value = self.node("Concat", [self.names[index] for index in op.inputs], axis=axis)
        return self.activation(op, value, options.FusedActivationFunction())

    # -- the walk ------------------------------------------------------------------------

    def convert(self):
        inputs = [self._input(int(index)) for index in self.graph.InputsAsNumpy()]
        for number in range(self.graph.OperatorsLength()):
            self._operator(self.graph.Operators(number))
        outputs = [self._output(int(index)) for index in self.graph.OutputsAsNumpy()]
        graph = helper.make_graph(self.nodes, "graph", inputs, outputs, self.initializers)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="tflite2onnx",
        )
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString(deterministic=True)

    def _input(self, index):
        batch, height, width, channels = self.shape(index)
        if self.names:
            raise ConversionError(f"second input {self.tensor_name(index)}: expected one picture")
        self.names[index] = "input"
        return helper.make_tensor_value_info(
            "input", TensorProto.FLOAT, [batch, channels, height, width]
        )

    def _operator(self, raw):
        code = self.model.OperatorCodes(raw.OpcodeIndex())
        # Old files keep the number in the deprecated field, new ones in the other.
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        op = Operator(raw, OPERATOR_NAMES.get(number, f"operator {number}"))
        if op.name == "DEQUANTIZE" and op.inputs[0] in self.constants:
            self.constants[op.outputs[0]] = self.float_constant(op, op.inputs[0])
            return
        method = getattr(self, f"op_{op.name.lower()}", None)
        if method is None:
            raise ConversionError(
                f"{op.name} making {self.tensor_name(op.outputs[0])}: not known; "
                f"add a method op_{op.name.lower()}"
            )
        self.names[op.outputs[0]] = method(op)

    def _output(self, index):
        name = self.tensor_name(index).replace("/", "_")
        shape = self.shape(index)
        if len(shape) == 4:
            node = helper.make_node(
                "Transpose", [self.names[index]], [name], name=f"{name}_node", perm=NCHW_TO_NHWC
            )
        else:
            node = helper.make_node("Identity", [self.names[index]], [name], name=f"{name}_node")
        self.nodes.append(node)
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def same_padding(size, kernel, stride, dilation):
    """TFLite's SAME: output = ceil(size / stride); an odd pixel goes to the far side."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def check(tflite_file, onnx_file):
    """Largest difference of each output, as a share of that output's range."""
    import onnxruntime
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=tflite_file)
    interpreter.allocate_tensors()
    (picture,) = interpreter.get_input_details()
    values = np.random.default_rng(1).uniform(-1, 1, picture["shape"]).astype(np.float32)
    interpreter.set_tensor(picture["index"], values)
    interpreter.invoke()
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    answers = session.run(None, {"input": values.transpose(NHWC_TO_NCHW)})
    worst = {}
    for details, meta, answer in zip(
        interpreter.get_output_details(), session.get_outputs(), answers, strict=True
    ):
        expected = interpreter.get_tensor(details["index"])
        if expected.shape != answer.shape:
            raise ConversionError(f"{meta.name}: {answer.shape}, expected {expected.shape}")
        worst[meta.name] = float(np.abs(expected - answer).max() / np.ptp(expected))
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("verb", choices=["convert", "check"])
    parser.add_argument("tflite")
    parser.add_argument("onnx")
    arguments = parser.parse_args()
    try:
        if arguments.verb == "convert":
            with open(arguments.tflite, "rb") as file:
                converted = Converter(file.read()).convert()
            with open(arguments.onnx + ".part", "wb") as file:
                file.write(converted)
            os.replace(arguments.onnx + ".part", arguments.onnx)
        else:
            for name, difference in check(arguments.tflite, arguments.onnx).items():
                print(f"{name}: differs by at most {difference:.1e} of its range")
                if not difference <= 2e-4:
                    raise ConversionError(f"{name}: more than 2e-4 apart")
    except (ConversionError, OSError) as error:
        print(f"tflite2onnx: {arguments.tflite}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
