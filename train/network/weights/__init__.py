"""Weight files: containers, published key names, pretrained backbones."""
