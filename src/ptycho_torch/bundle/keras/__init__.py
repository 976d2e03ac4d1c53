"""Archives of the TensorFlow program: description and weights of a Keras model, without Keras."""
