"""What a whole network does: heads switched off, committees. Tensors and modules in, arrays out."""
