"""The dtypes of nki.language: strings equal to their names."""

from reference.neuroncore.tensor import dtype_of

bool_ = dtype_of("bool_")
int8 = dtype_of("int8")
int16 = dtype_of("int16")
int32 = dtype_of("int32")
uint8 = dtype_of("uint8")
uint16 = dtype_of("uint16")
uint32 = dtype_of("uint32")
float16 = dtype_of("float16")
float32 = dtype_of("float32")
bfloat16 = dtype_of("bfloat16")
tfloat32 = dtype_of("tfloat32")
float8_e4m3 = dtype_of("float8_e4m3")
float8_e4m3fn = dtype_of("float8_e4m3fn")
float8_e5m2 = dtype_of("float8_e5m2")
float8_e8m0fnu = dtype_of("float8_e8m0fnu")
float8_e4m3fn_x4 = dtype_of("float8_e4m3fn_x4")
float8_e5m2_x4 = dtype_of("float8_e5m2_x4")
float4_e2m1fn_x4 = dtype_of("float4_e2m1fn_x4")
