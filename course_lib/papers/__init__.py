"""One module per paper; each opens with the paper, the sections it implements and the one formula."""
