"""What is read from a compiled program, held against small programs that were counted by hand."""

from ppo_jax.run.program import Loop, launches

# Shortened from what jax 0.10.2 makes for a GPU: a scan of 128 trips, in each of them a loop of 3.
GPU = """HloModule jit_chunk, is_scheduled=true

%fused_add (param_0: s32[]) -> s32[] {
  %param_0 = s32[] parameter(0)
  ROOT %add.1 = s32[] add(%param_0, %param_0)
}

%inner_body (arg: (s32[], f32[4])) -> (s32[], f32[4]) {
  %arg = (s32[], f32[4]{0}) parameter(0)
  %get-tuple-element.1 = s32[] get-tuple-element(%arg), index=0
  %get-tuple-element.2 = f32[4]{0} get-tuple-element(%arg), index=1
  %copy.1 = f32[4]{0} copy(%get-tuple-element.2)
  %loop_add = s32[] fusion(%get-tuple-element.1), kind=kLoop, calls=%fused_add
  ROOT %tuple.1 = (s32[], f32[4]{0}) tuple(%loop_add, %copy.1)
}

%inner_condition (arg.1: (s32[], f32[4])) -> pred[] {
  %arg.1 = (s32[], f32[4]{0}) parameter(0)
  ROOT %wrapped = pred[] fusion(%arg.1), kind=kLoop, calls=%fused_add
}

%outer_body (arg.2: (s32[], f32[4])) -> (s32[], f32[4]) {
  %arg.2 = (s32[], f32[4]{0}) parameter(0)
  %gemm = f32[4]{0} custom-call(%arg.2), custom_call_target="__cublas$gemm"
  ROOT %while.1 = (s32[], f32[4]{0}) while(%arg.2), condition=%inner_condition, body=%inner_body, backend_config={"known_trip_count":{"n":"3"}}
}

%outer_condition (arg.3: (s32[], f32[4])) -> pred[] {
  %arg.3 = (s32[], f32[4]{0}) parameter(0)
  ROOT %wrapped.1 = pred[] fusion(%arg.3), kind=kLoop, calls=%fused_add
}

ENTRY %main (input: f32[4]) -> f32[4] {
  %input = f32[4]{0} parameter(0)
  %constant.1 = s32[] constant(0)
  %copy.2 = f32[4]{0} copy(%input)
  %tuple.2 = (s32[], f32[4]{0}) tuple(%constant.1, %copy.2)
  %while.2 = (s32[], f32[4]{0}) while(%tuple.2), condition=%outer_condition, body=%outer_body, backend_config={"known_trip_count":{"n":"128"}}
  ROOT %get-tuple-element.3 = f32[4]{0} get-tuple-element(%while.2), index=1
}
"""  # noqa: E501
LOOPS = [Loop("outer_body", 1, 128, 1 + 3 * (2 + 1)), Loop("inner_body", 128, 3, 2)]

# A TPU's compiler tells no trips; its condition does where it compares a counter with a number.
TPU = """HloModule jit_chunk, is_scheduled=true

%body (arg: (s32[])) -> (s32[]) {
  %arg = (s32[]{:T(128)}) parameter(0)
  ROOT %fusion.1 = (s32[]{:T(128)}) fusion(%arg), kind=kLoop, calls=%fused
}

%condition (arg.1: (s32[])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(16), metadata={op_name="jit(chunk)/while"}
  %arg.1 = (s32[]{:T(128)}) parameter(0)
  %get-tuple-element.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%get-tuple-element.1, %constant.1), direction=LT
}

ENTRY %main (input: (s32[])) -> (s32[]) {
  %input = (s32[]{:T(128)}) parameter(0)
  ROOT %while.1 = (s32[]{:T(128)}) while(%input), condition=%condition, body=%body
}
"""


def test_kernels_count_once_a_trip_with_the_loops_conditions():
    """A copy, and 128 times a product, a condition, and 3 times two kernels and a condition."""
    assert launches(GPU) == (1 + 128 * (1 + 1 + 3 * (2 + 1)), LOOPS)


def test_an_unknown_number_of_trips_counts_once():
    unknown = GPU.replace(', backend_config={"known_trip_count":{"n":"128"}}', "")
    assert launches(unknown)[0] == 1 + (1 + 1 + 3 * (2 + 1))
    assert [loop.trips for loop in launches(unknown)[1]] == [None, 3]


def test_the_trips_of_a_tpus_loop_are_its_conditions_limit():
    assert launches(TPU) == (16 * 2, [Loop("body", 1, 16, 1)])
    assert launches(TPU.replace("direction=LT", "direction=GE"))[1][0].trips is None
