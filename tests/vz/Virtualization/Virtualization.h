/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What src/backend/vz/vz_machine.m uses of the Virtualization framework, declared by us (Foundation/Foundation.h says why). */
#ifndef KELPIE_TESTS_VZ_VIRTUALIZATION_H
#define KELPIE_TESTS_VZ_VIRTUALIZATION_H

#import <Foundation/Foundation.h>

@class VZVirtualMachine;

@protocol VZVirtualMachineDelegate <NSObject>
@optional
- (void)guestDidStopVirtualMachine:(VZVirtualMachine *)virtualMachine;
- (void)virtualMachine:(VZVirtualMachine *)virtualMachine didStopWithError:(NSError *)error;
@end

@interface VZBootLoader : NSObject
@end
@interface VZLinuxBootLoader : VZBootLoader
- (instancetype)initWithKernelURL:(NSURL *)url;
@property(copy) NSURL *initialRamdiskURL;
@property(copy) NSString *commandLine;
@end

@interface VZGenericMachineIdentifier : NSObject
- (instancetype)initWithDataRepresentation:(NSData *)data;
@property(readonly) NSData *dataRepresentation;
@end
@interface VZPlatformConfiguration : NSObject
@end
@interface VZGenericPlatformConfiguration : VZPlatformConfiguration
@property(copy) VZGenericMachineIdentifier *machineIdentifier;
@end

@interface VZSerialPortAttachment : NSObject
@end
@interface VZFileHandleSerialPortAttachment : VZSerialPortAttachment
- (instancetype)initWithFileHandleForReading:(NSFileHandle *)reading
                        fileHandleForWriting:(NSFileHandle *)writing;
@end
@interface VZVirtioConsolePortConfiguration : NSObject
@property(copy) NSString *name;
@property BOOL isConsole;
@property(strong) VZSerialPortAttachment *attachment;
@end
@interface VZVirtioConsolePortConfigurationArray : NSObject
- (void)setObject:(VZVirtioConsolePortConfiguration *)port atIndexedSubscript:(NSUInteger)index;
@end
@interface VZConsoleDeviceConfiguration : NSObject
@end
@interface VZVirtioConsoleDeviceConfiguration : VZConsoleDeviceConfiguration
@property(readonly) VZVirtioConsolePortConfigurationArray *ports;
@end

@interface VZEntropyDeviceConfiguration : NSObject
@end
@interface VZVirtioEntropyDeviceConfiguration : VZEntropyDeviceConfiguration
@end

@interface VZStorageDeviceAttachment : NSObject
@end
@interface VZDiskImageStorageDeviceAttachment : VZStorageDeviceAttachment
- (instancetype)initWithURL:(NSURL *)url readOnly:(BOOL)readOnly error:(NSError **)error;
@end
@interface VZStorageDeviceConfiguration : NSObject
@end
@interface VZVirtioBlockDeviceConfiguration : VZStorageDeviceConfiguration
- (instancetype)initWithAttachment:(VZStorageDeviceAttachment *)attachment;
@end

@interface VZVirtualMachineConfiguration : NSObject
@property(strong) VZBootLoader *bootLoader;
@property(strong) VZPlatformConfiguration *platform;
@property NSUInteger CPUCount;
@property uint64_t memorySize;
@property(copy) NSArray *entropyDevices;
@property(copy) NSArray *consoleDevices;
@property(copy) NSArray *storageDevices;
- (BOOL)validateWithError:(NSError **)error;
- (BOOL)validateSaveRestoreSupportWithError:(NSError **)error;
@end

@interface VZVirtualMachine : NSObject
@property(class, readonly, getter=isSupported) BOOL supported;
@property(readonly) BOOL canStop;
@property(weak) id<VZVirtualMachineDelegate> delegate;
- (instancetype)initWithConfiguration:(VZVirtualMachineConfiguration *)configuration
                                queue:(dispatch_queue_t)queue;
- (void)startWithCompletionHandler:(void (^)(NSError *error))handler;
- (void)pauseWithCompletionHandler:(void (^)(NSError *error))handler;
- (void)resumeWithCompletionHandler:(void (^)(NSError *error))handler;
- (void)stopWithCompletionHandler:(void (^)(NSError *error))handler;
- (void)saveMachineStateToURL:(NSURL *)url completionHandler:(void (^)(NSError *error))handler;
- (void)restoreMachineStateFromURL:(NSURL *)url completionHandler:(void (^)(NSError *error))handler;
@end

#endif
