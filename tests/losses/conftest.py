import torch

torch.set_num_threads(1)  # tensors this small only wait for a second thread
