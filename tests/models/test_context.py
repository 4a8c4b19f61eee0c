"""What a tower makes of the moment of a request."""

import torch

from cadc_rec.models.context import ContextEmbedding


def test_each_code_has_its_vector_behind_the_attributes():
    torch.manual_seed(0)
    embedding = ContextEmbedding({"a device": 3, "hour": 25}, 4, torch.device("cpu"))
    codes, attributes = torch.tensor([[2, 0], [1, 24]], dtype=torch.int32), torch.ones(2, 5)
    device, hour = (parameter.detach().numpy() for parameter in embedding.parameters())
    for given, width in ((attributes, 5), (None, 0)):
        made = embedding(codes, given).detach().numpy()
        assert made[:, :width].tolist() == [[1.0] * width] * 2
        assert made[:, width : width + 4].tolist() == device[[2, 1]].tolist()
        assert made[:, width + 4 :].tolist() == hour[[0, 24]].tolist()
