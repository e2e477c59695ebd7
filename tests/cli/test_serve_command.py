"""kameleon serve: what it shows when it listens."""

from types import SimpleNamespace

from kameleon.settings import Limits, Sampling


def test_serve_does_not_give_one_requests_room_as_that_of_the_whole_cache(capsys):
    from kameleon.cli.console import results
    from kameleon.cli.serve import _picture

    memory = SimpleNamespace(kv_cache_bytes=2_000_000_000, adapter_bytes=1_000_000_000)
    engine = SimpleNamespace(limits=Limits(), memory=memory)
    base = SimpleNamespace(sampling=Sampling(temperature=0.6, top_k=20))
    service = SimpleNamespace(adapter_names=lambda: ["law"], engine=engine, base=base, name="tiny", room_tokens=8192)
    results.print(_picture(service, "http://here", with_key=False), soft_wrap=True)
    lines = capsys.readouterr().out.splitlines()
    assert "memory: 2,000.0 MB for keys and values, 1,000.0 MB for adapters" in lines
    assert "a prompt and its answer: at most 8,192 tokens" in lines
    told = "unless a request says otherwise: temperature 0.6, top_k 20, at most 512 tokens a chat's answer"
    assert told in " ".join(lines)
