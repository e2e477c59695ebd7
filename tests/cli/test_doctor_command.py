"""kameleon doctor: what it finds, and what it advises."""

import json


def test_doctor_names_the_kernels_and_the_compute_type_with_reasons(on_tiny):
    status, out, _ = on_tiny("doctor", "--json", base=False)
    found = json.loads(out)
    assert status == (0 if found["kernels"] else 1)
    assert found["compute_type"] in ("bf16", "fp32")
    assert found["compute_reason"].startswith(found["compute_type"] + ": ")
    assert found["kernels_reason"]


def test_doctor_says_when_torch_is_a_cuda_build_and_how_to_get_the_one_for_cpus(on_tiny, monkeypatch):
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr("torch.__version__", "2.13.0+cu130")
    told = " ".join(on_tiny("doctor", base=False)[1].split())
    assert "a build for CUDA 13.0" in told
    assert "--no-deps --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 " in told
    assert json.loads(on_tiny("doctor", "--json", base=False)[1])["torch_cuda"] == "13.0"
    monkeypatch.setattr("torch.version.cuda", None)
    assert "CUDA" not in on_tiny("doctor", base=False)[1]
