#pragma once
// The compute device of this rank and the communicators that move its memory: NCCL where there are GPUs, MPI elsewhere.
#include <c10/core/Device.h>

#include <memory>
#include <string>

#include "cli/command.hpp"
#include "tessera/comm/device.hpp"
#include "tessera/comm/fabric.hpp"

namespace tessera::cli {

class Devices {
 public:
  // `precision` as the user gave it, "" for the device's default. Throws RequestError for one the device cannot do.
  Devices(Session& session, const std::string& precision);
  const comm::Fabric& fabric() const noexcept { return fabric_; }
  c10::Device device() const noexcept { return device_; }
  const std::string& precision() const noexcept { return precision_; }
  void close();  // collective

 private:
  c10::Device device_{c10::DeviceType::CPU};
  std::string precision_;
  std::shared_ptr<comm::Gpu> gpu_;
  std::unique_ptr<comm::Communicator> gather_, reduce_;
  comm::Fabric fabric_;
};

}  // namespace tessera::cli
