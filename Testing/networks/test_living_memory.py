"""The most memory that tensors hold at a time: of sums of tensors, and of a network."""

import torch
from torch import nn

from PartialSegLib.networks.living_memory import count_living_bytes

VALUES = 1000
BYTES = 4 * VALUES


def test_tensors_that_live_at_the_same_time_are_added_up():
    def two_at_a_time(x):
        doubled = x * 2
        return doubled + 1

    result, peak = count_living_bytes(two_at_a_time, torch.ones(VALUES))
    assert result.eq(3).all()
    assert peak == 2 * BYTES


def test_what_is_given_back_no_longer_counts():
    def chain(x):
        for _ in range(5):
            x = x + 1
        return x

    assert count_living_bytes(chain, torch.ones(VALUES))[1] == 2 * BYTES


def test_views_and_changes_in_place_take_nothing():
    def views(x):
        return x.view(10, -1).add_(1).relu_()[2:].split(2)

    assert count_living_bytes(views, torch.ones(VALUES))[1] == 0


def test_parts_of_one_tensor_count_once():
    assert count_living_bytes(lambda x: (x + 1).split(100), torch.ones(VALUES))[1] == BYTES


def test_a_network_holds_input_and_output_of_a_layer():
    network = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv3d(8, 2, 1)).eval()
    features, peak = count_living_bytes(network, torch.zeros(1, 1, 8, 8, 8))
    assert features.shape == (1, 2, 8, 8, 8)
    assert peak == (8 + 2) * 8**3 * 4


def test_half_the_precision_takes_half_the_memory():
    network = nn.Conv3d(1, 8, 3, padding=1).eval()

    def encode(patch):
        with torch.autocast("cpu", torch.bfloat16):
            return network(patch)

    assert count_living_bytes(encode, torch.zeros(1, 1, 8, 8, 8))[1] == 8 * 8**3 * 2
