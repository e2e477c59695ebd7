// Tells Python which interface this library was compiled with; ops/native/abi.py compares it when it loads the library.
#include <string>

#include "api.h"

#define SIZE(name) +";sizeof " #name "=" + std::to_string(sizeof(name))
#define CODE(name) +";" #name "=" + std::to_string(int64_t(name))
#define KIND(text, name) +";" text "=" + std::to_string(int64_t(name))

extern "C" const char* kameleon_abi(void) {
    static const std::string text =
        "ABI_VERSION=" + std::to_string(ABI_VERSION)
        SIZE(Stored) SIZE(Term) SIZE(Attention) SIZE(Part) SIZE(Weight) SIZE(BranchB) SIZE(Side) SIZE(SideRun)
        SIZE(Layer) SIZE(Stack) SIZE(Pages) SIZE(Pass)
        CODE(FP32) CODE(BF16) KIND("stored F32", PACKED_F32) KIND("stored BF16", PACKED_BF16) KIND("stored F16", PACKED_F16)
        CODE(Q4_0) CODE(Q4_1) CODE(Q5_0) CODE(Q5_1) CODE(Q8_0) CODE(Q2_K) CODE(Q3_K) CODE(Q4_K) CODE(Q5_K) CODE(Q6_K)
        CODE(NF4) CODE(SILU) CODE(GELU_TANH) CODE(PAGE_TOKENS) CODE(B_COLUMNS) CODE(MAX_FEW_ROWS);
    return text.c_str();
}
