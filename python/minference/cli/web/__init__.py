"""`minference demo --web`: a document of your own, asked densely and sparsely, on a local web page."""
