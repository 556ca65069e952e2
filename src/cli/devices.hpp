#pragma once
// The compute device of this rank and the communicators that move its memory: NCCL where there are GPUs, MPI elsewhere.
#include <c10/core/Device.h>

#include <memory>
#include <string>

#include "cli/command.hpp"
#include "tessera/comm/transports.hpp"
#include "tessera/comm/watchdog.hpp"

namespace tessera::cli {

class Devices {
 public:
  // `precision` as the user gave it, "" for the device's default. `check_schedule` as in TransportOptions. Collective.
  // Throws RequestError where a host has GPUs, but not one for each of its ranks.
  Devices(Session& session, const std::string& precision, bool check_schedule = false);
  const comm::Fabric& fabric() const noexcept { return transports_->fabric(); }
  c10::Device device() const noexcept { return device_; }
  const std::string& precision() const noexcept { return precision_; }
  // From now on a collective that takes longer than `limit_s` seconds ends the job with status 1, a report of what each
  // rank waits for, and the last collectives of the rank that reports. Collective.
  void watch(Session& session, double limit_s);
  void close();  // collective

 private:
  std::unique_ptr<comm::Transports> transports_;
  std::unique_ptr<comm::Watchdog> watchdog_;
  c10::Device device_{c10::DeviceType::CPU};
  std::string precision_;
};

}  // namespace tessera::cli
