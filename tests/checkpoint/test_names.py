from unified.checkpoint.names import current_name


def test_names_of_the_first_format_and_todays() -> None:
    assert current_name("text.word.weight") == "embeddings.text.word.weight"
    assert current_name("image.projection.bias") == "embeddings.image.projection.bias"
    assert current_name("embeddings.text.word.weight") == "embeddings.text.word.weight"
    assert current_name("encoder.blocks.0.text.weight") == "encoder.blocks.0.text.weight"
