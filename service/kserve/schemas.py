"""The JSON bodies of the open inference protocol (KServe V2)."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from service.kserve.tensors import Datatype

NO_SHARED_MEMORY = "shared memory is not supported: send the data with the request, in JSON or as a binary part"

_STRICT = ConfigDict(extra="forbid")
_OPEN = ConfigDict(extra="ignore")  # the protocol lets parameters of any name pass

Side = Annotated[int, Field(ge=0, lt=2**31)]


class InputParameters(BaseModel):
    """What may be said of an input; other parameters are ignored."""

    model_config = _OPEN

    binary_data_size: Annotated[
        NonNegativeInt | None, Field(description="bytes of its binary part; null where data is in the JSON")
    ] = None
    shared_memory_region: Annotated[object, Field(description=NO_SHARED_MEMORY)] = None


class OutputParameters(BaseModel):
    """How an output is wanted; other parameters are ignored."""

    model_config = _OPEN

    classification: Annotated[
        int | None, Field(ge=1, description='name so many classes, the highest first, as "value:index:label"')
    ] = None
    binary_data: Annotated[
        bool | None, Field(strict=True, description="as a binary part; null goes by binary_data_output")
    ] = None
    shared_memory_region: Annotated[object, Field(description=NO_SHARED_MEMORY)] = None


class RequestParameters(BaseModel):
    """What may be said of a request; other parameters are ignored."""

    model_config = _OPEN

    timeout: Annotated[NonNegativeInt | None, Field(description="longest wait, microseconds; 504 after that")] = None
    binary_data_output: Annotated[
        bool, Field(strict=True, description="outputs are binary parts where they do not say")
    ] = False


class InferInput(BaseModel):
    """A tensor of a request."""

    model_config = _STRICT

    name: Annotated[str, Field(description="`image` or `pixels`")]
    shape: Annotated[list[Side], Field(min_length=1, max_length=8)]
    datatype: Annotated[str, Field(description="BYTES for `image`, FP32 for `pixels`")]
    parameters: InputParameters | None = None
    data: Annotated[
        list[Any] | None, Field(description="numbers, or texts (pictures in base64); flat or nested, row by row")
    ] = None


class RequestedOutput(BaseModel):
    """An output that a request asks for."""

    model_config = _STRICT

    name: Annotated[str, Field(description="`logits` or `probabilities`")]
    parameters: OutputParameters | None = None


class InferRequest(BaseModel):
    """The JSON of a request."""

    model_config = _STRICT

    id: Annotated[str | None, Field(description="comes back with the answer")] = None
    inputs: Annotated[list[InferInput], Field(min_length=1, max_length=16, description="one, the pictures")]
    outputs: Annotated[list[RequestedOutput] | None, Field(max_length=16, description="null asks for `logits`")] = None
    parameters: RequestParameters | None = None


class BinarySize(BaseModel):
    """What is said of an output that is a binary part."""

    binary_data_size: int


class InferOutput(BaseModel):
    """A tensor of an answer."""

    name: str
    datatype: Datatype
    shape: list[int]
    parameters: BinarySize | None = None
    data: list[Any] | None = None


class InferResponse(BaseModel):
    """The JSON of an answer."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[InferOutput]


class TensorMetadata(BaseModel):
    """Name, type and shape of an input or output; -1 is the number of pictures."""

    name: str
    datatype: Datatype
    shape: list[int]


class ServerMetadata(BaseModel):
    """What the server is, and which extensions of the protocol it has."""

    name: str
    version: str
    extensions: list[str]


class ModelMetadata(BaseModel):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class TensorConfig(BaseModel):
    """An input or output as Triton's model configuration writes it; `dims` are without the number of pictures."""

    name: str
    data_type: Literal["TYPE_FP32", "TYPE_STRING"]
    dims: list[int]

    @classmethod
    def of(cls, metadata: TensorMetadata) -> "TensorConfig":
        """Write a tensor in Triton's way."""
        data_type = "TYPE_STRING" if metadata.datatype == "BYTES" else "TYPE_FP32"
        return cls(name=metadata.name, data_type=data_type, dims=metadata.shape[1:])


class ModelConfig(BaseModel):
    """A model's configuration, as far as Triton's clients read it."""

    name: str
    platform: str
    max_batch_size: Annotated[int, Field(description="most pictures of one request")]
    input: list[TensorConfig]
    output: list[TensorConfig]


class Count(BaseModel):
    """So many pictures."""

    count: int


class InferenceStats(BaseModel):
    """Pictures that were answered, and that were not, for whatever reason."""

    success: Count
    fail: Count


class VersionStats(BaseModel):
    """Counts of one version of a model since the service started."""

    name: str
    version: str
    inference_count: int
    inference_stats: InferenceStats


class ModelStats(BaseModel):
    """Counts of versions of models."""

    model_stats: list[VersionStats]


class Live(BaseModel):
    """Whether the server is alive."""

    live: bool


class Ready(BaseModel):
    """Whether the server or a model can answer now."""

    ready: bool


class IndexRequest(BaseModel):
    """Which models to list."""

    ready: Annotated[bool, Field(strict=True, description="only those in memory")] = False


class IndexEntry(BaseModel):
    """A version of a model."""

    name: str
    version: str
    state: Annotated[Literal["READY", "UNAVAILABLE"], Field(description="READY: it is in memory")]
    reason: str


class RepositoryRequest(BaseModel):
    """What may be said of a load or unload."""

    parameters: Annotated[dict[str, Any], Field(description="`config` and files are refused, others are ignored")] = {}


class Done(BaseModel):
    """An empty answer: what was asked for is done."""
